"""Attention over packed rows, sample by sample.

A dense mask that keeps the samples of a row apart has as many entries as the row has tokens, squared (268 MB for 16
thousand), and the kernel multiplies every pair of them to throw most away. Each sample for itself needs no mask, only
its own pairs, and lets the fused causal kernel run on any device.

Shapes: L tokens of a row, S samples in it, H heads, C width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_by_sample"  # of the attention in transformers' registry


def sample_lengths(lengths: Sequence[int]) -> Tensor:
    """What stands in a mask's place for a packed row: the lengths of its samples, int64 [1, 1, 1, S].

    transformers hands masks of four dimensions to the layers untouched. It stays on the CPU, because the lengths are
    needed there.
    """
    return torch.tensor(lengths, dtype=torch.long, device="cpu")[None, None, None]


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **words: Any
) -> tuple[Tensor, None]:
    """transformers' fused attention [B, H, L, C] -> [B, L, H, C]; causal within each sample if the mask is one of
    `sample_lengths`."""
    if attention_mask is None or attention_mask.dtype != torch.long:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **words)
    lengths = attention_mask.flatten().tolist()
    samples = zip(*(each.split(lengths, dim=2) for each in (query, key, value)), strict=True)
    return torch.cat([sdpa_attention_forward(module, *sample, None, **words)[0] for sample in samples], dim=1), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
