"""The detokenizer's last part: features on the patch grid -> a picture of the mask (MaskGIT-VQGAN's decoder)."""

from __future__ import annotations

from torch import Tensor, nn

from methods.enlarge import channels_last, double, plus, swish


def norm(channels: int) -> nn.GroupNorm:
    """GroupNorm in 32 groups as released; narrower models use one group per channel."""
    return nn.GroupNorm(min(32, channels), channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions without bias.

    Where the width changes, the released code applies the 1x1 shortcut to the second convolution's output instead of
    the block's input; it is kept, because the released weights were trained with it.
    """

    def __init__(self, wide_in: int, wide_out: int):
        super().__init__()
        self.norm1 = norm(wide_in)
        self.conv1 = nn.Conv2d(wide_in, wide_out, 3, padding=1, bias=False)
        self.norm2 = norm(wide_out)
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
