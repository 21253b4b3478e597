"""What a run stands on: the device's precision, and batches on their way to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from methods.base import UserError


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The same batch with its tensors on a device."""
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}


def fast_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 faster than float32."""
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)  # as every CPU with AMX has it
    return device.type == "cuda" or known()


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """ "auto" is bfloat16 where the device multiplies it faster than float32, else float32."""
    if name == "auto":
        return torch.bfloat16 if fast_bfloat16(device) else torch.float32
    if name not in ("float32", "bfloat16"):
        raise UserError(f"There is no precision {name!r}; choose auto, float32 or bfloat16.")
    return getattr(torch, name)
