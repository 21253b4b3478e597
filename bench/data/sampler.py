"""Which sample comes when: a pure function of seed and step, so that a resumed run sees exactly what it would have.

A step takes `images_per_step` images and `expressions_per_image` samples of each, so that one pass of the vision tower
serves several expressions. The images come from the components of a mixture, of each as many in an epoch as its repeat
count or weight says; every image of a component is seen once before any of it is seen twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from bench.data.dataset import Dataset
from methods.base import Example, UserError


@dataclass(frozen=True)
class DrawnSample:
    """A sample to be prepared: the example with one expression chosen, the task, and its own random stream."""

    example: Example
    task: str
    rng: np.random.Generator


@dataclass(frozen=True)
class MixtureComponent:
    """Images of one kind. `tasks` maps a task to its weight; `datasets` a task to the dataset that serves it.

    An epoch holds each of its images `repeat` times on average; or, if all components have a `weight`, as many images
    as all components have, of which this one gives its share.
    """

    datasets: Mapping[str, Dataset]
    tasks: Mapping[str, float]
    repeat: float = 1.0
    weight: float = 0.0
    name: str = ""

    @cached_property
    def samples_of(self) -> dict[str, dict[Any, Sequence[int]]]:
        """Task -> image id -> indices of its samples."""
        return {task: dict(self.datasets[task].by_image()) for task, weight in self.tasks.items() if weight > 0}

    @cached_property
    def image_ids(self) -> list[Any]:
        """Its images, sorted. Raises UserError if there are none."""
        found = sorted(
            {image for samples in self.samples_of.values() for image in samples},
            key=lambda image: (type(image).__name__, image),
        )
        if not found:
            where = f"Source {self.name}" if self.name else "The training split"
            raise UserError(f"{where} has no images; build it with data.train_scenes above 0.")
        return found

    def sample(self, image: Any, count: int, rng: np.random.Generator) -> list[DrawnSample]:
        """Samples of an image. An image that a task's dataset lacks is served by another task."""
        usable = [task for task in self.samples_of if self.samples_of[task].get(image)]
        weights = np.array([self.tasks[task] for task in usable])
        left = {task: list(rng.permutation(self.samples_of[task][image])) for task in usable}
        drawn = []
        for _ in range(count):
            task = usable[rng.choice(len(usable), p=weights / weights.sum())]
            index = left[task].pop() if left[task] else rng.choice(self.samples_of[task][image])
            example = self.datasets[task][int(index)]
            phrase = example.expressions[rng.integers(len(example.expressions))]
            drawn.append(DrawnSample(replace(example, expressions=(phrase,)), task, rng))
        return drawn


class Sampler:
    """Draws steps. Raises UserError if there is nothing to draw."""

    def __init__(
        self, components: Sequence[MixtureComponent], images_per_step: int, expressions_per_image: int, seed: int
    ):
        self.components, self.seed = components, seed
        self.images_per_step, self.expressions_per_image = images_per_step, expressions_per_image
        self.counts = per_epoch(components)
        self._epoch: tuple[int, np.ndarray, np.ndarray] = (-1, np.empty(0, int), np.empty(0, int))
        self._permutations: dict[int, tuple[int, np.ndarray]] = {}

    def __call__(self, step: int) -> list[DrawnSample]:
        """The samples of one step, in order."""
        return [drawn for slot in range(self.images_per_step) for drawn in self.image_samples(step, slot)]

    def image_samples(self, step: int, slot: int, attempt: int = 0) -> list[DrawnSample]:
        """The samples of one image of a step; an `attempt` above 0 takes another image of its component instead."""
        number, drawn = self._turn(step * self.images_per_step + slot)
        component = self.components[number]
        if attempt:
            rng = np.random.default_rng([self.seed, 3, step, slot, attempt])
            place = int(rng.integers(len(component.image_ids)))
        else:
            epoch, place = divmod(drawn, len(component.image_ids))
            place = self._permutation(number, epoch)[place]
        rng = np.random.default_rng([self.seed, 2, step, slot, *([attempt] if attempt else [])])
        return component.sample(component.image_ids[place], self.expressions_per_image, rng)

    def identity(self) -> dict[str, object]:
        """What fixes the order; a run may only resume with the same."""
        images = {each.name: len(each.image_ids) for each in self.components}
        tasks = {each.name: {t: w for t, w in each.tasks.items() if w > 0} for each in self.components}
        identity: dict[str, object] = {"seed": self.seed, "images_per_step": self.images_per_step,
                                      "expressions_per_image": self.expressions_per_image}  # fmt: skip
        if len(self.components) == 1:
            return identity | {"images": sum(images.values()), "tasks": next(iter(tasks.values()))}
        return identity | {"images": images, "tasks": tasks, "images per epoch": self.counts}

    def _turn(self, position: int) -> tuple[int, int]:
        """The image at a position of the run -> (its component, how many that component gave before)."""
        epoch, place = divmod(position, sum(self.counts))
        if self._epoch[0] != epoch:
            turns = np.repeat(np.arange(len(self.counts)), self.counts)
            turns = np.random.default_rng([self.seed, 4, epoch]).permutation(turns)
            before = np.empty_like(turns)
            before[np.argsort(turns, kind="stable")] = np.concatenate([np.arange(count) for count in self.counts])
            self._epoch = (epoch, turns, before)
        number = int(self._epoch[1][place])
        return number, epoch * self.counts[number] + int(self._epoch[2][place])

    def _permutation(self, number: int, epoch: int) -> np.ndarray:
        """The order in which a component's images come the n-th time."""
        if self._permutations.get(number, (-1,))[0] != epoch:
            rng = np.random.default_rng([self.seed, 1, epoch, *([number] if number else [])])
            self._permutations[number] = (epoch, rng.permutation(len(self.components[number].image_ids)))
        return self._permutations[number][1]


def per_epoch(components: Sequence[MixtureComponent]) -> list[int]:
    """Images that each component gives to an epoch, at least one. Raises UserError for components that contradict."""
    if not components:
        raise UserError("There is nothing to train on: the mixture has no source.")
    sizes = [len(each.image_ids) for each in components]
    weights = [each.weight for each in components]
    if not any(weights):
        return [max(1, round(each.repeat * size)) for each, size in zip(components, sizes, strict=True)]
    if not all(weights):
        named = {bool(each.weight): each.name for each in components}
        raise UserError(f"Source {named[True]} has a weight but {named[False]} has none; give it to all or to none.")
    ends = np.round(np.cumsum(weights) / sum(weights) * sum(sizes)).astype(int)
    return [max(1, int(count)) for count in np.diff(ends, prepend=0)]
