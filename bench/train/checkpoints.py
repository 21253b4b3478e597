"""Checkpoints of a running stage: written whole or not at all, the last good one found again, bit for bit.

<folder>/checkpoint-00000400/{tensors.safetensors, state.json}
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from methods.base import UserError
from methods.files import read_object, whole_folder

PREFIX = "checkpoint-"
NAME = re.compile(
    r"(checkpoint-\d{8})|(\.checkpoint-\d{8}(\.part|\.old))"
)  # finished ones; drafts and half-deleted ones


def save_checkpoint(folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write a checkpoint beside the older one, then drop the older one. Raises UserError if the disk is full."""
    final = folder / f"{PREFIX}{step:08d}"
    discard(final)
    with whole_folder(final) as draft:
        save_file(tensors, draft / "tensors.safetensors")
        with (draft / "tensors.safetensors").open("rb") as handle:
            os.fsync(handle.fileno())  # on the disk before the name says that it is there
        (draft / "state.json").write_text(json.dumps(state | {"step": step}))
    clean_up(folder, final)


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if (path / "state.json").is_file())


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


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest readable checkpoint, its tensors memory-mapped; None if there is none."""
    for path in reversed(checkpoints(folder)):
        try:
            tensors = load_file(path / "tensors.safetensors")
            state = read_object(path / "state.json", "remove the folder")
        except (OSError, SafetensorError, UserError):
            continue
        tensors.pop("torch/rng", None)  # of checkpoints from before micro-batches had seeds of their own
        return tensors, state
    return None
