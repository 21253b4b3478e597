"""Which sample comes when: a pure function of seed and step, so that a resumed run sees exactly what it would have.

A step takes `images` pictures and `per_image` samples of each, so that one pass of the vision tower serves several
expressions. The pictures come from one or several sources, of each as many in an epoch as its repeat count or weight
says; every picture of a source is seen once before any of it is seen twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from methods.base import Example, UserError


class ImageDataset(Protocol):
    """A dataset that knows which of its examples share a picture, and where its pictures are to lie."""

    name: str

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Example: ...
    def by_image(self) -> Sequence[tuple[int | str, Sequence[int]]]: ...
    def picture_paths(self) -> Sequence[Path]: ...


@dataclass(frozen=True)
class Drawn:
    """A sample to be prepared: the example with one expression chosen, the task, and its own random stream."""

    example: Example
    task: str
    rng: np.random.Generator


@dataclass(frozen=True)
class Source:
    """Pictures of one kind. `tasks` maps a task to its weight; `datasets` a task to the dataset that serves it.

    An epoch holds each of its pictures `repeat` times on average; or, if all sources have a `weight`, as many pictures
    as all sources have, of which this one gives its share.
    """

    datasets: Mapping[str, ImageDataset]
    tasks: Mapping[str, float]
    repeat: float = 1.0
    weight: float = 0.0
    name: str = ""

    @cached_property
    def places(self) -> dict[str, dict[Any, Sequence[int]]]:
        """Task -> picture -> indices of its examples."""
        return {task: dict(self.datasets[task].by_image()) for task, weight in self.tasks.items() if weight > 0}

    @cached_property
    def pictures(self) -> list[Any]:
        """Its pictures, sorted. Raises UserError if there are none."""
        found = sorted(
            {image for places in self.places.values() for image in places},
            key=lambda image: (type(image).__name__, image),
        )
        if not found:
            where = f"Source {self.name}" if self.name else "The training split"
            raise UserError(f"{where} has no pictures; build it with data.train_scenes above 0.")
        return found

    def draw(self, image: Any, count: int, rng: np.random.Generator) -> list[Drawn]:
        """Samples of a picture. A picture that a task's dataset lacks is served by another task."""
        usable = [task for task in self.places if self.places[task].get(image)]
        weights = np.array([self.tasks[task] for task in usable])
        left = {task: list(rng.permutation(self.places[task][image])) for task in usable}
        drawn = []
        for _ in range(count):
            task = usable[rng.choice(len(usable), p=weights / weights.sum())]
            index = left[task].pop() if left[task] else rng.choice(self.places[task][image])
            example = self.datasets[task][int(index)]
            phrase = example.expressions[rng.integers(len(example.expressions))]
            drawn.append(Drawn(replace(example, expressions=(phrase,)), task, rng))
        return drawn


class Order:
    """Draws steps. Raises UserError if there is nothing to draw."""

    def __init__(self, sources: Sequence[Source], images: int, per_image: int, seed: int):
        self.sources, self.images, self.per_image, self.seed = sources, images, per_image, seed
        self.counts = per_epoch(sources)
        self._epoch: tuple[int, np.ndarray, np.ndarray] = (-1, np.empty(0, int), np.empty(0, int))
        self._permutations: dict[int, tuple[int, np.ndarray]] = {}

    def __call__(self, step: int) -> list[Drawn]:
        """The samples of one step, in order."""
        return [drawn for slot in range(self.images) for drawn in self.picture(step, slot)]

    def picture(self, step: int, slot: int, attempt: int = 0) -> list[Drawn]:
        """The samples of one picture of a step; an `attempt` above 0 draws another picture of its source instead."""
        number, drawn = self._turn(step * self.images + slot)
        source = self.sources[number]
        if attempt:
            place = np.random.default_rng([self.seed, 3, step, slot, attempt]).integers(len(source.pictures))
        else:
            epoch, place = divmod(drawn, len(source.pictures))
            place = self._permutation(number, epoch)[place]
        rng = np.random.default_rng([self.seed, 2, step, slot, *([attempt] if attempt else [])])
        return source.draw(source.pictures[place], self.per_image, rng)

    def identity(self) -> dict[str, object]:
        """What fixes the order; a run may only go on with the same."""
        pictures = {source.name: len(source.pictures) for source in self.sources}
        tasks = {source.name: {t: w for t, w in source.tasks.items() if w > 0} for source in self.sources}
        identity: dict[str, object] = {"seed": self.seed, "images": self.images, "per_image": self.per_image}
        if len(self.sources) == 1:
            return identity | {"pictures": sum(pictures.values()), "tasks": next(iter(tasks.values()))}
        return identity | {"pictures": pictures, "tasks": tasks, "pictures per epoch": self.counts}

    def _turn(self, position: int) -> tuple[int, int]:
        """The picture at a position of the run -> (its source, how many that source gave before)."""
        epoch, place = divmod(position, sum(self.counts))
        if self._epoch[0] != epoch:
            turns = np.repeat(np.arange(len(self.counts)), self.counts)
            turns = np.random.default_rng([self.seed, 4, epoch]).permutation(turns)
            before = np.empty_like(turns)
            before[np.argsort(turns, kind="stable")] = np.concatenate([np.arange(count) for count in self.counts])
            self._epoch = (epoch, turns, before)
        source = int(self._epoch[1][place])
        return source, epoch * self.counts[source] + int(self._epoch[2][place])

    def _permutation(self, source: int, epoch: int) -> np.ndarray:
        """The order in which a source's pictures come the n-th time."""
        if self._permutations.get(source, (-1,))[0] != epoch:
            rng = np.random.default_rng([self.seed, 1, epoch, *([source] if source else [])])
            self._permutations[source] = (epoch, rng.permutation(len(self.sources[source].pictures)))
        return self._permutations[source][1]


def per_epoch(sources: Sequence[Source]) -> list[int]:
    """Pictures that each source gives to an epoch, at least one. Raises UserError for sources that contradict."""
    if not sources:
        raise UserError("There is nothing to train on: the mixture has no source.")
    sizes = [len(source.pictures) for source in sources]
    weights = [source.weight for source in sources]
    if not any(weights):
        return [max(1, round(source.repeat * size)) for source, size in zip(sources, sizes, strict=True)]
    if not all(weights):
        named = {bool(source.weight): source.name for source in sources}
        raise UserError(f"Source {named[True]} has a weight but {named[False]} has none; give it to all or to none.")
    ends = np.round(np.cumsum(weights) / sum(weights) * sum(sizes)).astype(int)
    return [max(1, int(count)) for count in np.diff(ends, prepend=0)]
