"""Which sample comes when: a pure function of seed and step, so that a resumed run sees exactly what it would have.

A step takes `images` pictures and `per_image` samples of each, so that one pass of the vision tower serves several
expressions. Every picture is seen once before any is seen twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from methods.base import Example, UserError


class ImageDataset(Protocol):
    """A dataset that knows which of its examples share a picture."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Example: ...
    def by_image(self) -> Sequence[tuple[int | str, Sequence[int]]]: ...


@dataclass(frozen=True)
class Drawn:
    """A sample to be prepared: the example with one expression chosen, the task, and its own random stream."""

    example: Example
    task: str
    rng: np.random.Generator


class Order:
    """Draws steps. `tasks` maps a task to its weight; `datasets` a task to the dataset that serves it.

    A picture that a task's dataset lacks is served by another task. Raises UserError if there is nothing to draw.
    """

    def __init__(
        self, datasets: Mapping[str, ImageDataset], tasks: Mapping[str, float], images: int, per_image: int, seed: int
    ):
        self.tasks = {task: weight for task, weight in tasks.items() if weight > 0}
        self.datasets = datasets
        self.places = {task: dict(datasets[task].by_image()) for task in self.tasks}
        self.pictures = sorted({image for places in self.places.values() for image in places})
        if not self.pictures:
            raise UserError("The training split has no pictures; build it with data.train_scenes above 0.")
        self.images, self.per_image, self.seed = images, per_image, seed
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0, int))

    def __call__(self, step: int) -> list[Drawn]:
        """The samples of one step, in order."""
        return [drawn for slot in range(self.images) for drawn in self.picture(step, slot)]

    def picture(self, step: int, slot: int, attempt: int = 0) -> list[Drawn]:
        """The samples of one picture of a step; an `attempt` above 0 draws another picture in its place."""
        position = step * self.images + slot
        if attempt:
            place = np.random.default_rng([self.seed, 3, step, slot, attempt]).integers(len(self.pictures))
        else:
            place = self._permutation(position // len(self.pictures))[position % len(self.pictures)]
        rng = np.random.default_rng([self.seed, 2, step, slot, *([attempt] if attempt else [])])
        return self._of_picture(self.pictures[place], rng)

    def identity(self) -> dict[str, object]:
        """What fixes the order; a run may only go on with the same."""
        return {
            "seed": self.seed,
            "images": self.images,
            "per_image": self.per_image,
            "pictures": len(self.pictures),
            "tasks": self.tasks,
        }

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._epoch[0] != epoch:
            rng = np.random.default_rng([self.seed, 1, epoch])
            self._epoch = (epoch, rng.permutation(len(self.pictures)))
        return self._epoch[1]

    def _of_picture(self, image: Any, rng: np.random.Generator) -> list[Drawn]:
        usable = [task for task in self.tasks if self.places[task].get(image)]
        weights = np.array([self.tasks[task] for task in usable])
        left = {task: list(rng.permutation(self.places[task][image])) for task in usable}
        drawn = []
        for _ in range(self.per_image):
            task = usable[rng.choice(len(usable), p=weights / weights.sum())]
            index = left[task].pop() if left[task] else rng.choice(self.places[task][image])
            example = self.datasets[task][int(index)]
            phrase = example.expressions[rng.integers(len(example.expressions))]
            drawn.append(Drawn(replace(example, expressions=(phrase,)), task, rng))
        return drawn
