"""Linear layers that read the same input as one product: a step of one token is bound by its number of operations on a
small model, and by reading each matrix at full bandwidth on a large one.

No weight is stored twice. Those of queries, keys and values, and those of gate and up, lie behind each other in one
allocation, of which the layers hold consecutive parts. Whatever moves a part elsewhere (`.to`, adapters, an engine of
training that owns the weights) undoes that; the layers are then called one by one. So they are on a CPU for more rows
than FEW_ROWS, where the arithmetic binds and the larger product was the slower one (0.83 to 0.91 times at 4 to 64 rows
of width 512; at one row it was 1.05 times as fast, and 1.22 at width 256).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEW_ROWS = 1


class Joined:
    """Linear layers [O_i, I] of the same input, as they lie now: valid until a weight is moved."""

    def __init__(self, layers: Sequence[nn.Module]):
        self.layers, self.whole = layers, None
        if all(type(layer) is nn.Linear for layer in layers):
            weight = _whole([layer.weight for layer in layers])
            bias = None if layers[0].bias is None else _whole([layer.bias for layer in layers])
            if weight is not None and (bias is None) == (layers[0].bias is None):
                self.whole, self.rows = (weight, bias), [layer.out_features for layer in layers]

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        """[..., I] -> [..., O_i] of each."""
        if self.whole is None or (x.device.type == "cpu" and x.shape[:-1].numel() > FEW_ROWS):
            return [layer(x) for layer in self.layers]
        return F.linear(x, *self.whole).split(self.rows, -1)


def groups(layer: nn.Module) -> tuple[tuple[nn.Module, ...], tuple[nn.Module, ...]]:
    """The layers of a transformer block that read the same."""
    part, mlp = layer.self_attn, layer.mlp
    return (part.q_proj, part.k_proj, part.v_proj), (mlp.gate_proj, mlp.up_proj)


@torch.no_grad()
def lay_together(language_model: nn.Module) -> None:
    """Move weights that belong together behind each other, one group at a time."""
    for layer in language_model.layers:
        for group in groups(layer):
            for parts in ([linear.weight for linear in group], [linear.bias for linear in group]):
                if parts[0] is not None:
                    pieces = torch.cat([part.data for part in parts]).split([len(part) for part in parts])
                    for part, piece in zip(parts, pieces, strict=True):
                        part.data = piece


def _whole(parts: Sequence[Tensor]) -> Tensor | None:
    """The rows of contiguous tensors that lie behind each other, as one tensor; None if they do not."""
    first, end = parts[0], parts[0].storage_offset()
    for part in parts:
        if part.untyped_storage()._cdata != first.untyped_storage()._cdata or part.storage_offset() != end:
            return None
        end += part.numel()
    return first.as_strided((sum(map(len, parts)), *first.shape[1:]), first.stride())
