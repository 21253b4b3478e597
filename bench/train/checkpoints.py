"""Checkpoints of a running stage: there whole or not at all, the last good one found again, bit for bit.

<folder>/checkpoint-00000400/{tensors.safetensors, state.json}, or where each of several processes writes what it holds
<folder>/checkpoint-00000400/{tensors-00000-of-00008.safetensors, ..., state.json}: every tensor flat and cut into as
many equal shares, the last ones shorter; state.json has the shapes. Safetensors, because torch.distributed.checkpoint
keeps its table of contents as a pickle.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.distributed import DistributedContext
from methods.base import UserError
from methods.files import fits, read_object, writing

PREFIX = "checkpoint-"
NAME = re.compile(
    r"(checkpoint-\d{8})|(\.checkpoint-\d{8}(\.part|\.old))"
)  # finished ones; drafts and half-deleted ones
STATE, SHAPES = "state.json", "shapes"


# ---- tensors and shares of them -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shard:
    """What one process writes: `tensors`, whole if it is the only one, else number `index` of `count` equal shares of
    each, flat; and the shapes of all tensors of the checkpoint."""

    tensors: dict[str, Tensor]
    index: int = 0
    count: int = 1
    shapes: dict[str, list[int]] = field(default_factory=dict)

    @property
    def file(self) -> str:
        return "tensors.safetensors" if self.count == 1 else f"tensors-{self.index:05d}-of-{self.count:05d}.safetensors"


def share(tensor: Tensor, index: int, count: int) -> Tensor:
    """Number `index` of `count` equal shares of a tensor, flat; the last ones may be shorter, or empty."""
    size = -(-tensor.numel() // count)
    return tensor.flatten()[index * size : (index + 1) * size]


class Shared(Mapping[str, Tensor]):
    """The tensors of several files by name, each put together when it is asked for."""

    def __init__(self, parts: list[dict[str, Tensor]], shapes: Mapping[str, list[int]]):
        self.parts, self.shapes = parts, shapes

    def __getitem__(self, name: str) -> Tensor:
        shape = self.shapes[name]
        return torch.cat([part[name] for part in self.parts if name in part]).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def _read(folder: Path, shapes: Any) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint, memory-mapped. Raises OSError, SafetensorError or ValueError for files that are
    missing or damaged."""
    if shapes is None:
        return load_file(folder / "tensors.safetensors")
    if not fits(shapes, dict[str, list[int]]) or any(side < 0 for shape in shapes.values() for side in shape):
        raise ValueError
    files = sorted(folder.glob("tensors-*-of-*.safetensors"))
    if not files or [path.name for path in files] != [Shard({}, i, len(files)).file for i in range(len(files))]:
        raise ValueError
    parts = [load_file(path) for path in files]
    for name, shape in shapes.items():
        if sum(part[name].numel() for part in parts if name in part) != math.prod(shape):
            raise ValueError
    return Shared(parts, shapes)


# ---- writing --------------------------------------------------------------------------------------------------------


class Draft:
    """A checkpoint that is being written, by a thread of each process that has a part of it, while training goes on.

    Every process makes one and calls `finish` at the same time; `written` tells it when that will not have to wait.
    """

    def __init__(
        self, folder: Path, step: int, shard: Shard | None, state: dict[str, Any], context: DistributedContext
    ):
        """shard: what this process writes, None: nothing. Raises UserError on the first process if the disk is full."""
        self.final, self.context, self.shard = folder / f"{PREFIX}{step:08d}", context, shard
        self.draft = folder / f".{self.final.name}.part"
        self.state = state | {"step": step} | ({SHAPES: shard.shapes} if shard and shard.count > 1 else {})
        self.error: Exception | None = None
        self.seconds, self._begun = 0.0, time.monotonic()
        if context.first:
            with writing(self.final):
                discard(self.final)
                shutil.rmtree(self.draft, ignore_errors=True)
                self.draft.mkdir(parents=True)
        context.wait()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def _write(self) -> None:
        try:
            if self.shard:
                with writing(self.final):
                    path = self.draft / self.shard.file
                    save_file(self.shard.tensors, path)
                    with path.open("rb") as handle:
                        os.fsync(handle.fileno())  # on the disk before the name says that it is there
        except Exception as error:  # told by `finish`, to all processes
            self.error = error
        self.seconds = time.monotonic() - self._begun

    @property
    def written(self) -> bool:
        return not self._thread.is_alive()

    def finish(self) -> None:
        """Wait, give the checkpoint its name and drop the older one. Raises UserError if it could not be written."""
        self.join()
        try:
            self._publish()
        except BaseException:
            if self.context.first:
                shutil.rmtree(self.draft, ignore_errors=True)
            raise
        self.context.wait()

    def join(self) -> None:
        self._thread.join()

    def _publish(self) -> None:
        if self.error and not isinstance(self.error, UserError):
            raise self.error
        for sentence in self.context.gather(str(self.error or "")):
            if sentence:
                raise UserError(sentence)
        if self.context.first:
            with writing(self.final):
                (self.draft / STATE).write_text(json.dumps(self.state))
                self.draft.rename(self.final)
                clean_up(self.final.parent, self.final)


# ---- finding, reading, removing -------------------------------------------------------------------------------------


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if (path / STATE).is_file())


def clean_up(folder: Path, keep: Path | None = None) -> None:
    """Remove all checkpoints but one, and what a kill while writing or removing one has left."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path != keep and NAME.fullmatch(path.name) and path.is_dir():
            discard(path)


def discard(path: Path) -> None:
    """Remove a checkpoint; under another name first, so that half of one is never taken for a whole one."""
    old = path if path.name.startswith(".") else path.with_name(f".{path.name}.old")
    if old != path and path.is_dir():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path) -> tuple[Mapping[str, Tensor], dict[str, Any]] | None:
    """The newest readable checkpoint, its tensors memory-mapped; None if there is none."""
    for path in reversed(checkpoints(folder)):
        try:
            state = read_object(path / STATE, "remove the folder")
            tensors = _read(path, state.pop(SHAPES, None))
        except (OSError, SafetensorError, UserError, ValueError):
            continue
        if isinstance(tensors, dict):
            tensors.pop("torch/rng", None)  # of checkpoints from before micro-batches had seeds of their own
        return tensors, state
    return None
