"""The language model's linear layers with 8-bit integers as weights, one scale for each output: half of bfloat16.

Symmetric, rounded to nearest, without calibration. Embeddings, head, vision tower and mask tokenizer keep theirs. The
product is taken with the integers in the activations' precision and scaled afterwards. A single token in bfloat16 on a
CPU has a kernel that reads the integers themselves; everything else makes a copy of the weight in the activations'
precision first, which saves memory but no time.

Shapes: rows x of [..., I], weight [O, I].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEW_ROWS = 4  # up to which the kernel that reads integers is the faster one


class Int8Linear(nn.Module):
    """What a Linear computes, for decoding only."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1).clamp(min=1e-12) / 127
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))  # -127..127
        self.register_buffer("scale", scale.to(linear.weight.dtype))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.shape[:-1].numel() <= FEW_ROWS:
            y = torch.ops.aten._weight_int8pack_mm(x.flatten(0, -2), self.weight, self.scale.to(x.dtype))
            y = y.unflatten(0, x.shape[:-1])
        else:
            y = F.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
        return y if self.bias is None else y + self.bias


def quantise(language_model: nn.Module) -> None:
    """Replace the linear layers of every transformer block; those that are integers already stay."""
    for layer in language_model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, child in list(part.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(part, name, Int8Linear(child))
