"""Comparing this code's tensors with reference vectors that were made by the papers' own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from methods.base import UserError
from methods.check import Check


def close(name: str, ours: Tensor, reference: Tensor, tolerance: float) -> Check:
    """Largest absolute difference of two tensors of one shape."""
    if ours.shape != reference.shape:
        return Check(name, list(ours.shape), list(reference.shape), False)
    difference = float((ours.detach().double() - reference.double()).abs().max()) if ours.numel() else 0.0
    return Check(name, f"{difference:.1e}", f"<= {tolerance:.0e}", difference <= tolerance)


def same(name: str, ours: Tensor | Any, reference: Tensor | Any) -> Check:
    """Exact equality, of tensors by the number of entries that differ."""
    if isinstance(ours, Tensor) and isinstance(reference, Tensor):
        if ours.shape != reference.shape:
            return Check(name, list(ours.shape), list(reference.shape), False)
        wrong = int((ours.long() != reference.long()).sum())
        return Check(name, f"{wrong} of {ours.numel()} differ", "equal", wrong == 0)
    return Check(name, ours, reference, ours == reference)


def read(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of `<folder>/<name>.safetensors`. Raises UserError if it is missing or damaged."""
    path = folder / f"{name}.safetensors"
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; copy the whole folder of reference vectors.") from None
    except SafetensorError as error:
        raise UserError(f"{path}: damaged ({error}); copy the folder of reference vectors again.") from None


def named_weights(shapes: dict[str, torch.Size], tensors: dict[str, Tensor], source: Path) -> dict[str, Tensor]:
    """The tensors that a model of these shapes needs. Raises UserError for a missing or misshapen one."""
    for name, shape in shapes.items():
        if name not in tensors:
            raise UserError(f"{source}: the reference weights lack {name}; the vectors are of another form.")
        if tensors[name].shape != shape:
            raise UserError(f"{source}: {name} is {list(tensors[name].shape)}, not {list(shape)}.")
    return {name: tensors[name] for name in shapes}
