"""From the order of samples to micro-batches: what one forward pass on one device sees.

A step's images are cut into micro-batches before they are dealt to the processes, so that a step is the same mean
of the same micro-batches however many processes share it. Images that cannot be used are replaced and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from bench.config import StageConfig
from bench.data.sampler import DrawnSample, Sampler
from bench.distributed import DistributedContext
from methods.base import Processor, TrainingSample, UserError

WORKERS = 4  # per process, beside a GPU
NOT_LEARNED = -100  # the label of such tokens
ATTEMPTS = 8  # images that may fail in a row before a run is stopped


@dataclass
class MicroBatch:
    """A collated batch and what is to be said about it."""

    batch: dict[str, Any]
    seed: int  # of everything random in its forward pass
    names: list[str]  # of its samples
    tokens: int
    learned: int = 0  # tokens that have a label
    weight: float = 1.0  # what its loss counts among those of a step
    broken: list[str] = field(default_factory=list)  # sentences on images that were replaced
    error: str = ""  # why there is no batch

    def pin_memory(self) -> MicroBatch:
        """What the loader calls where a GPU is to copy the tensors while it computes."""
        self.batch = {k: v.pin_memory() if isinstance(v, torch.Tensor) else v for k, v in self.batch.items()}
        return self


def micro_batch_size(stage: StageConfig, context: DistributedContext) -> int:
    """Images per micro-batch. Raises UserError if a step cannot be dealt evenly."""
    images = stage.micro_batch_images or stage.images_per_step // context.size
    if images == 0 or stage.images_per_step % (images * context.size):
        raise UserError(
            f"{stage.images_per_step} images per step cannot be dealt to {context.size} processes in micro-batches of "
            f"{max(images, 1)}; choose images_per_step as a multiple of micro_batch_images times the processes."
        )
    return images


@dataclass
class _Prepared:
    """The samples of one image; or none and an error."""

    samples: list[TrainingSample]
    names: list[str]
    broken: list[str]
    error: str = ""

    @property
    def length(self) -> int:
        return max((len(sample.ids) for sample in self.samples), default=0)


class MicroBatches(Dataset[list[MicroBatch]]):
    """The micro-batches of a run. Item (window, part) are those at place `part` of each step of a window; a pure
    function of its place, so that workers, processes and restarts change nothing.

    A window is one step, or `length_bucketing` steps: then images whose samples are of like length share a micro-batch,
    which leaves less to be padded. What a sample's length is only `prepare` knows, so a window is prepared as a whole;
    since it is made of one place of each step, no other process needs it.
    """

    def __init__(self, processor: Processor, order: Sampler, stage: StageConfig, images: int):
        self.processor, self.order, self.stage, self.images = processor, order, stage, images
        self.per_step = stage.images_per_step // images

    def steps(self, window: int) -> range:
        """The steps of a window."""
        first = window * self.stage.length_bucketing
        return range(first, min(first + self.stage.length_bucketing, self.stage.steps))

    def __getitem__(self, place: tuple[int, int]) -> list[MicroBatch]:
        window, part = place
        slots = range(part * self.images, (part + 1) * self.images)
        images = [self._image(step, slot) for step in self.steps(window) for slot in slots]
        groups = [images[i : i + self.images] for i in range(0, len(images), self.images)]
        if len(groups) > 1:
            images.sort(key=lambda image: image.length)
            turns = np.random.default_rng([self.stage.seed, 5, window, part]).permutation(len(groups))
            groups = [images[i * self.images : (i + 1) * self.images] for i in turns]  # lengths must not rise
        return [self._micro_batch(step, part, group) for step, group in zip(self.steps(window), groups, strict=True)]

    def _micro_batch(self, step: int, part: int, images: list[_Prepared]) -> MicroBatch:
        seed = int(np.random.SeedSequence([self.stage.seed, step, part]).generate_state(1)[0])
        names, broken = ([text for p in images for text in getattr(p, key)] for key in ("names", "broken"))
        error = next((p.error for p in images if p.error), "")
        micro = MicroBatch({}, seed, names, 0, broken=broken, error=error)
        if not micro.error:
            samples = [sample for image in images for sample in image.samples]
            micro.tokens = sum(len(sample.ids) for sample in samples)
            micro.learned = sum(label != NOT_LEARNED for sample in samples for label in sample.labels[1:])
            micro.batch = self.processor.collate(samples, self.stage.pack)
        return micro

    def _image(self, step: int, slot: int) -> _Prepared:
        broken: list[str] = []
        for attempt in range(ATTEMPTS):
            try:
                drawn = self.order.image_samples(step, slot, attempt)
                samples = [self._prepared(each) for each in drawn]
            except UserError as error:
                broken.append(str(error))
                continue
            return _Prepared(samples, [f"{d.example.dataset}:{d.example.ref_id}" for d in drawn], broken)
        return _Prepared([], [], broken, f"{ATTEMPTS} images in a row cannot be used; the last: {broken[-1]}")

    def _prepared(self, drawn: DrawnSample) -> TrainingSample:
        sample = self.processor.prepare(drawn.example, drawn.task, drawn.rng)
        if self.stage.max_length:
            where = f"{drawn.example.dataset} sample {drawn.example.ref_id}"
            self.processor.truncate(sample, self.stage.max_length, where)
        return sample


def stream(batches: MicroBatches, context: DistributedContext, first_step: int, workers: int) -> Iterator[MicroBatch]:
    """This process's micro-batches from a step on: of each step those whose place is its rank modulo the size."""
    group, steps = batches.stage.length_bucketing, batches.stage.steps
    workers = workers if workers >= 0 else WORKERS if torch.cuda.is_available() else 0
    windows = range(first_step // group, -(-steps // group))
    parts = range(context.rank, batches.per_step, context.size)
    mine = [(window, part) for window in windows for part in parts]
    quiet = torch.Generator()  # the loader would draw from torch's own otherwise
    more: dict[str, Any] = {"prefetch_factor": max(1, 4 // group), "persistent_workers": True} if workers else {}
    more["pin_memory"] = torch.cuda.is_available()
    source = iter(DataLoader(batches, None, sampler=mine, num_workers=workers, generator=quiet, **more))
    for window in windows:
        columns = [next(source) for _ in parts]
        for step, row in zip(batches.steps(window), zip(*columns, strict=True), strict=True):
            if step >= first_step:
                yield from row
