"""Snapshots of a running stage: written whole or not at all, the last good one found again, bit for bit.

<folder>/snapshot-000400/{tensors.safetensors, state.json}
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

PREFIX = "snapshot-"


def save_snapshot(folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write a snapshot beside the older one, then drop the older one. `torch/rng` is added to the tensors."""
    final = folder / f"{PREFIX}{step:08d}"
    draft = folder / f".{final.name}.part"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    save_file(tensors | {"torch/rng": torch.get_rng_state()}, draft / "tensors.safetensors")
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
    """The newest readable snapshot, with torch's generator set back to it; None if there is none."""
    for path in reversed(snapshots(folder)):
        try:
            tensors = load_file(path / "tensors.safetensors")
            state = json.loads((path / "state.json").read_text())
        except (OSError, SafetensorError, json.JSONDecodeError):
            continue
        torch.set_rng_state(tensors.pop("torch/rng"))
        return tensors, state
    return None
