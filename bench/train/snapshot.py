"""Snapshots of a running stage: written whole or not at all, the last good one found again, bit for bit.

<folder>/snapshot-00000400/{tensors.safetensors, state.json}
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

PREFIX = "snapshot-"


def save_snapshot(folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write a snapshot beside the older one, then drop the older one."""
    final = folder / f"{PREFIX}{step:08d}"
    draft = folder / f".{final.name}.part"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    save_file(tensors, draft / "tensors.safetensors")
    with (draft / "tensors.safetensors").open("rb") as handle:
        os.fsync(handle.fileno())  # on the disk before the name says that it is there
    (draft / "state.json").write_text(json.dumps(state | {"step": step}))
    shutil.rmtree(final, ignore_errors=True)
    draft.rename(final)
    for old in snapshots(folder):
        if old != final:
            shutil.rmtree(old)


def snapshots(folder: Path) -> list[Path]:
    """Finished snapshots, oldest first."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if (path / "state.json").is_file())


def load_snapshot(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest readable snapshot, its tensors memory-mapped; None if there is none."""
    for path in reversed(snapshots(folder)):
        try:
            tensors = load_file(path / "tensors.safetensors")
            state = json.loads((path / "state.json").read_text())
        except (OSError, SafetensorError, json.JSONDecodeError):
            continue
        tensors.pop("torch/rng", None)  # of snapshots from before micro-batches had seeds of their own
        return tensors, state
    return None
