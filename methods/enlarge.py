"""Cheaper ways to the same image for decoders of masks, where nothing is learned and a CPU's arithmetic binds.

Doubling a map by its nearest neighbours and convolving it 3x3 reads every value two or four times. The four phases of
the result are 2x2 convolutions of the small map whose weights are sums of the nine: 4/9 of the multiplications, and the
same sums in another order. With channels-last maps, whose GroupNorm is less exact on a CPU, a whole image of values
in -1..1 differs by up to some 1e-4.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_RELEASED: ContextVar[bool] = ContextVar("released", default=False)


@contextmanager
def as_released() -> Iterator[None]:
    """Within, everything is computed step by step as the released codes do it."""
    token = _RELEASED.set(True)
    try:
        yield
    finally:
        _RELEASED.reset(token)


def cheaply(x: Tensor) -> bool:
    """Whether the cheaper ways are taken for a map."""
    return not (torch.is_grad_enabled() or _RELEASED.get()) and x.device.type == "cpu"


def channels_last(x: Tensor) -> Tensor:
    """The map [B, C, H, W] in the layout whose convolutions are fastest."""
    return x.contiguous(memory_format=torch.channels_last) if cheaply(x) else x


def swish(fresh: Tensor) -> Tensor:
    """SiLU of a map that nothing else reads."""
    return F.silu(fresh, inplace=cheaply(fresh))


def plus(fresh: Tensor, x: Tensor) -> Tensor:
    """The sum of a map that nothing else reads, and another."""
    return fresh.add_(x) if cheaply(fresh) else fresh + x


def double(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """[B, C, H, W] -> nearest-neighbour doubling, then the 3x3 convolution: [B, C', 2 H, 2 W]."""
    if not cheaply(x):
        return conv(F.interpolate(x, scale_factor=2.0))
    batch, _, height, width = x.shape
    out = x.new_empty(batch, conv.out_channels, 2 * height, 2 * width).contiguous(memory_format=torch.channels_last)
    for i, tall in enumerate(_pairs(conv.weight, 2)):
        for j, weight in enumerate(_pairs(tall, 3)):
            out[:, :, i::2, j::2] = F.conv2d(F.pad(x, (1 - j, j, 1 - i, i)), weight, conv.bias)
    return out


def _pairs(weight: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Three taps on a doubled axis are two on the plain one: for even places the first and the sum of the others, for
    odd places the sum of the first two and the last."""
    a, b, c = weight.unbind(axis)
    return torch.stack([a, b + c], axis), torch.stack([a + b, c], axis)
