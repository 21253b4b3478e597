"""From pixels to the patch grid and back: the detokenizer's last part as released (MaskGIT-VQGAN's decoder), and a stem
and a decoder of our own, which learn faster because every convolution runs on halved maps."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from methods.enlarge import channels_last, double, plus, swish
from methods.himtok.config import FINE_GROUPS, GROUPS


def norm(channels: int, groups: int = GROUPS) -> nn.GroupNorm:
    """GroupNorm in 32 groups as released; narrower models use one group per channel."""
    return nn.GroupNorm(min(groups, channels), channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions without bias.

    Where the width changes, the released code applies the 1x1 shortcut to the second convolution's output instead of
    the block's input; it is kept, because the released weights were trained with it.
    """

    def __init__(self, wide_in: int, wide_out: int, groups: int = GROUPS):
        super().__init__()
        self.norm1 = norm(wide_in, groups)
        self.conv1 = nn.Conv2d(wide_in, wide_out, 3, padding=1, bias=False)
        self.norm2 = norm(wide_out, groups)
        self.conv2 = nn.Conv2d(wide_out, wide_out, 3, padding=1, bias=False)
        self.nin_shortcut = nn.Conv2d(wide_out, wide_out, 1, bias=False) if wide_in != wide_out else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(swish(self.norm2(self.conv1(swish(self.norm1(x))))))
        return plus(y, x) if self.nin_shortcut is None else plus(self.nin_shortcut(y), y)


class Level(nn.Module):
    """Residual blocks, then nearest-neighbour doubling and a 3x3 convolution on all but the last level."""

    def __init__(self, wide_in: int, wide_out: int, blocks: int, upsample: bool):
        super().__init__()
        widths = [wide_in] + [wide_out] * blocks
        self.block = nn.ModuleList(ResidualBlock(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.upsample_conv = nn.Conv2d(wide_out, wide_out, 3, padding=1) if upsample else None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return x if self.upsample_conv is None else double(x, self.upsample_conv)


class PixelDecoder(nn.Module):
    """[B, C, G, G] -> [B, 3, G * 2^(levels - 1), ...]; levels are stored finest first, run coarsest first."""

    def __init__(self, channels: int, base: int, multipliers: tuple[int, ...], blocks: int, mid_blocks: int):
        super().__init__()
        widths = [base * m for m in multipliers]
        self.conv_in = nn.Conv2d(channels, widths[-1], 3, padding=1)
        self.mid = nn.ModuleList(ResidualBlock(widths[-1], widths[-1]) for _ in range(mid_blocks))
        wider = widths[1:] + widths[-1:]
        self.up = nn.ModuleList(
            Level(above, own, blocks, upsample=level > 0)
            for level, (above, own) in enumerate(zip(wider, widths, strict=True))
        )
        self.norm_out = norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = channels_last(self.conv_in(x))
        for block in self.mid:
            x = block(x)
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(swish(self.norm_out(x)))


class Stem(nn.Module):
    """Masks as three equal channels [B, 3, R, R] -> [B, W, G, G]: 3x3 convolutions that halve the map until a pixel is
    a patch, each twice as wide as the one before, then 1x1 to the width."""

    def __init__(self, width: int, patch: int):
        super().__init__()
        halvings = int(math.log2(patch))
        widths = [
            1,
            *(max(FINE_GROUPS, (width >> (halvings - i)) // FINE_GROUPS * FINE_GROUPS) for i in range(halvings)),
        ]
        layers: list[nn.Module] = []
        for wide_in, wide_out in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(wide_in, wide_out, 3, 2, 1), norm(wide_out, FINE_GROUPS), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], width, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels[:, :1])


class SubpixelDecoder(nn.Module):
    """[B, C, G, G] -> [B, 1, G * patch, ...]: residual blocks on maps that double and halve their width from level to
    level, each doubling and the last one by moving channels to pixels, plus the features mapped to pixels linearly."""

    def __init__(self, channels: int, base: int, patch: int, blocks: int):
        super().__init__()
        widths = [base << i for i in reversed(range(int(math.log2(patch))))]
        self.patch = patch
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.block = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width, width, FINE_GROUPS) for _ in range(blocks))) for width in widths
        )
        pairs = zip(widths, widths[1:], strict=False)
        self.up = nn.ModuleList(nn.Conv2d(wide_in, 4 * wide_out, 1) for wide_in, wide_out in pairs)
        self.norm_out = norm(widths[-1], FINE_GROUPS)
        self.conv_out = nn.Conv2d(widths[-1], 4, 3, padding=1)
        self.linear = nn.Conv2d(channels, patch**2, 1)

    def forward(self, x: Tensor) -> Tensor:
        straight = F.pixel_shuffle(self.linear(x), self.patch)
        x = self.block[0](self.conv_in(x))
        for up, block in zip(self.up, self.block[1:], strict=True):
            x = block(F.pixel_shuffle(up(x), 2))
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(x))), 2) + straight
