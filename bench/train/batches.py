"""From the order of samples to micro-batches: what one forward pass on one device sees.

A step's pictures are cut into micro-batches before they are dealt to the processes, so that a step is the same mean
of the same micro-batches however many processes share it. Pictures that cannot be used are replaced and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from bench.config import StageConfig
from bench.train.order import Drawn, Order
from bench.train.world import World
from methods.base import Method, TrainingSample, UserError

ATTEMPTS = 8  # pictures that may fail in a row before a run is stopped


@dataclass
class MicroBatch:
    """A collated batch and what is to be said about it."""

    batch: dict[str, Any]
    seed: int  # of everything random in its forward pass
    names: list[str]  # of its samples
    tokens: int
    broken: list[str] = field(default_factory=list)  # sentences on pictures that were replaced
    error: str = ""  # why there is no batch


def micro_images(stage: StageConfig, world: World) -> int:
    """Pictures per micro-batch. Raises UserError if a step cannot be dealt evenly."""
    images = stage.micro_images or stage.images // world.size
    if images == 0 or stage.images % (images * world.size):
        raise UserError(
            f"{stage.images} pictures per step cannot be dealt to {world.size} processes in micro-batches of "
            f"{max(images, 1)}; choose images as a multiple of micro_images times the number of processes."
        )
    return images


class MicroBatches(Dataset[MicroBatch]):
    """Micro-batch i of the whole run; a pure function of i, so that workers and restarts change nothing."""

    def __init__(self, method: Method, order: Order, stage: StageConfig, images: int):
        self.method, self.order, self.stage, self.images = method, order, stage, images
        self.per_step = stage.images // images

    def __getitem__(self, index: int) -> MicroBatch:
        step, part = divmod(index, self.per_step)
        seed = int(np.random.SeedSequence([self.stage.seed, step, part]).generate_state(1)[0])
        samples: list[TrainingSample] = []
        micro = MicroBatch({}, seed, [], 0)
        try:
            for slot in range(part * self.images, (part + 1) * self.images):
                samples += self._picture(step, slot, micro)
        except UserError as error:
            micro.error = str(error)
            return micro
        micro.tokens = sum(len(sample.ids) for sample in samples)
        micro.batch = self.method.collate(samples, pack=True) if self.stage.pack else self.method.collate(samples)
        return micro

    def _picture(self, step: int, slot: int, micro: MicroBatch) -> list[TrainingSample]:
        for attempt in range(ATTEMPTS):
            try:
                drawn = self.order.picture(step, slot, attempt)
                samples = [self.method.prepare(d.example, d.task, d.rng) for d in drawn]
            except UserError as error:
                micro.broken.append(str(error))
                continue
            micro.names += [_name(d) for d in drawn]
            return samples
        raise UserError(f"{ATTEMPTS} pictures in a row cannot be used; the last: {micro.broken[-1]}")


def _name(drawn: Drawn) -> str:
    return f"{drawn.example.dataset}:{drawn.example.ref_id}"


def stream(batches: MicroBatches, world: World, first_step: int, workers: int) -> Iterator[MicroBatch]:
    """This process's micro-batches from a step on: of each step those whose place is its rank modulo the size."""
    steps = range(first_step, batches.stage.steps)
    parts = range(world.rank, batches.per_step, world.size)
    mine = [step * batches.per_step + part for step in steps for part in parts]
    quiet = torch.Generator()  # the loader would draw from torch's own otherwise
    more = {"prefetch_factor": 4, "persistent_workers": True} if workers else {}
    yield from DataLoader(batches, None, sampler=mine, num_workers=workers, generator=quiet, **more)
