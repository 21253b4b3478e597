"""Floating-point operations, counted as they run, with the fused attention that PyTorch's counter leaves out.

PyTorch has no formula for the kernel of a CPU, and up to 2.11 refuses fewer heads of keys than of queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

_KINDS = ("flash_attention", "efficient_attention", "cudnn_attention", "flash_attention_for_cpu")
ATTENTION = tuple(getattr(torch.ops.aten, f"_scaled_dot_product_{kind}") for kind in _KINDS)


def attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *rest: Any, **words: Any) -> int:
    """Both products of shapes [B, H, L, C], [B, H', S, C] and [B, H', S, E], over all pairs, hidden ones too."""
    return 2 * prod(query) * key[-2] + 2 * prod(query[:-1]) * value[-2] * value[-1]


def flop_counter() -> FlopCounterMode:
    """A context whose `get_total_flops()` is what ran within, a multiplication and an addition being two."""
    return FlopCounterMode(display=False, custom_mapping=dict.fromkeys(ATTENTION, attention_flops))
