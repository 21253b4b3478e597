"""ARGenSeg's mask tokenizer: VAR's VQ-VAE, which decodes the mask as a white object on black.

Tensor names are those of VAR's released file, so that its state dict loads without a key table.

Shapes: B images, R side in pixels, C code width, G = R / 2^(levels - 1), T tokens, K codes.
Source: VAR's released VQ-VAE (324 tensors at width 160).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.argenseg.config import GROUPS, MaskTokenizerConfig
from methods.argenseg.masks import official_grey, preprocess_mask, truncated
from methods.argenseg.quantizer import ResidualQuantizer
from methods.base import UserError
from methods.common.masks import bilinear_mask
from methods.enlarge import channels_last, double, plus, swish
from methods.precision import exactly


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    def __init__(self, wide_in: int, wide_out: int):
        super().__init__()
        self.norm1 = norm(wide_in)
        self.conv1 = nn.Conv2d(wide_in, wide_out, 3, padding=1)
        self.norm2 = norm(wide_out)
        self.conv2 = nn.Conv2d(wide_out, wide_out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(wide_in, wide_out, 1) if wide_in != wide_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(swish(self.norm2(self.conv1(swish(self.norm1(x))))))
        return plus(y, self.nin_shortcut(x))


class Attention(nn.Module):
    """Single-head self-attention over all positions of a map."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, -1)
        y = F.scaled_dot_product_attention(q, k, v)
        # contiguous, because GroupNorm's backward is several times slower on a channels-last view
        return x + self.proj_out(y.transpose(1, 2).contiguous().view(x.shape))


class Resample(nn.Module):
    """Halve (zero padding right and below, stride 2) or double (nearest) with one 3x3 convolution."""

    def __init__(self, channels: int, up: bool):
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, stride=1 if up else 2, padding=1 if up else 0)

    def forward(self, x: Tensor) -> Tensor:
        return double(x, self.conv) if self.up else self.conv(F.pad(x, (0, 1, 0, 1)))


def middle(channels: int) -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "block_1": ResidualBlock(channels, channels),
            "attn_1": Attention(channels),
            "block_2": ResidualBlock(channels, channels),
        }
    )


def level(wide_in: int, wide_out: int, blocks: int, attention: bool, resample: str | None) -> nn.ModuleDict:
    """Residual blocks, each followed by attention on the deepest level, then a resampling."""
    widths = [wide_in] + [wide_out] * blocks
    parts: dict[str, nn.Module] = {
        "block": nn.ModuleList(ResidualBlock(a, b) for a, b in zip(widths, widths[1:], strict=False))
    }
    if attention:
        parts["attn"] = nn.ModuleList(Attention(wide_out) for _ in range(blocks))
    if resample:
        parts[resample] = Resample(wide_out, resample == "upsample")
    return nn.ModuleDict(parts)


def run_level(x: Tensor, parts: nn.ModuleDict) -> Tensor:
    for i, block in enumerate(parts["block"]):
        x = block(x)
        if "attn" in parts:
            x = parts["attn"][i](x)
    for name in ("downsample", "upsample"):
        if name in parts:
            x = parts[name](x)
    return x


class Encoder(nn.Module):
    """[B, 3, R, R] in -1..1 -> [B, C, G, G]."""

    def __init__(self, config: MaskTokenizerConfig):
        super().__init__()
        widths = [config.width * m for m in config.multipliers]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        before = widths[:1] + widths[:-1]
        self.down = nn.ModuleList(
            level(a, b, config.blocks, i == last, None if i == last else "downsample")
            for i, (a, b) in enumerate(zip(before, widths, strict=True))
        )
        self.mid = middle(widths[-1])
        self.norm_out = norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.code_width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for parts in self.down:
            x = run_level(x, parts)
        for block in self.mid.values():
            x = block(x)
        return self.conv_out(swish(self.norm_out(x)))


class Decoder(nn.Module):
    """[B, C, G, G] -> [B, 3, R, R], unclamped; levels are stored finest first and run coarsest first."""

    def __init__(self, config: MaskTokenizerConfig):
        super().__init__()
        widths = [config.width * m for m in config.multipliers]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.code_width, widths[-1], 3, padding=1)
        self.mid = middle(widths[-1])
        before = widths[1:] + widths[-1:]
        self.up = nn.ModuleList(
            level(a, b, config.blocks + 1, i == last, None if i == 0 else "upsample")
            for i, (a, b) in enumerate(zip(before, widths, strict=True))
        )
        self.norm_out = norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = channels_last(self.conv_in(x))
        for block in self.mid.values():
            x = block(x)
        for parts in reversed(self.up):
            x = run_level(x, parts)
        return self.conv_out(swish(self.norm_out(x)))


class VQVAE(nn.Module):
    """methods.base.MaskTokenizer over images; masks go in and out as grey images."""

    def __init__(self, config: MaskTokenizerConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = ResidualQuantizer(
            config.codes, config.code_width, config.scales, config.quant_resi, config.beta, config.quant_resi_ratio
        )
        self.quant_conv = nn.Conv2d(config.code_width, config.code_width, 3, padding=1)
        self.post_quant_conv = nn.Conv2d(config.code_width, config.code_width, 3, padding=1)

    @property
    def resolution(self) -> int:
        return self.config.resolution

    @property
    def length(self) -> int:
        return sum(self.quantize.lengths)

    @property
    def size(self) -> int:
        return self.config.codes

    @property
    def prefixes(self) -> tuple[int, ...]:
        """Token counts at which the tokenizer is measured: after each scale."""
        lengths = self.quantize.lengths
        return tuple(sum(lengths[: k + 1]) for k in range(len(lengths)))

    def preprocess_mask(self, mask: np.ndarray) -> np.ndarray:
        return preprocess_mask(mask, self.resolution, self.config.mask_resize, "The mask")

    def postprocess_mask(self, probabilities: Tensor, size: tuple[int, int], mask_resize: str = "") -> np.ndarray:
        """The official conversion takes the image in colours [3, R, R] too; from its mean, as the tokenizer's own round
        trip gives it, levels may differ by one."""
        if (mask_resize or self.config.mask_resize) == "bilinear":
            return bilinear_mask(probabilities.mean(0) if probabilities.ndim == 3 else probabilities, size)
        return official_grey(truncated(probabilities.float().expand(3, -1, -1)), size) > 127

    def features(self, images: Tensor) -> Tensor:
        """[B, 3, R, R] in -1..1 -> [B, C, G, G] before quantisation."""
        return self.quant_conv(self.encoder(images))

    def decode_features(self, features: Tensor) -> Tensor:
        """Accumulated features [B, C, G, G] -> images [B, 3, R, R], unclamped."""
        return self.decoder(self.post_quant_conv(features.contiguous()))

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """[B, 3, R, R] in -1..1 -> ids int64 [B, T]; float32 without TF32, whatever the caller's settings."""
        with exactly(images.device):
            return self.quantize.encode(self.features(images.float()))

    def encode(self, masks: Tensor, tokens: int | None = None) -> Tensor:
        """float [B, 1 or 3, R, R] in 0..1 -> the first `tokens` ids, all T for None. Raises UserError for masks of
        another kind or size."""
        side, shape = self.resolution, list(masks.shape)
        if not masks.is_floating_point() or shape[1:] not in ([1, side, side], [3, side, side]):
            found = f"{masks.dtype} {shape}"
            raise UserError(f"The masks are {found}, but must be floats in 0..1 of shape {[1, side, side]} each.")
        return self.encode_images(masks.expand(-1, 3, -1, -1) * 2 - 1)[:, :tokens]

    def decode(self, ids: Tensor) -> Tensor:
        """ids [B, T'] of whole scales -> mask probabilities [B, R, R]: the image's grey value in 0..1.

        Raises UserError for ids that do not exist, or that end within a scale.
        """
        if ids.ndim != 2 or ids.shape[1] not in self.prefixes:
            raise UserError(f"The ids are {list(ids.shape)}, but a mask is one row of {list(self.prefixes)} tokens.")
        wrong = ids[(ids < 0) | (ids >= self.size)]
        if len(wrong):
            raise UserError(f"There is no visual token {int(wrong[0])}; ids run from 0 to {self.size - 1}.")
        return self.grey(self.quantize.accumulate(self.quantize.embedding(ids))[-1])

    def decode_soft(self, probabilities: Tensor) -> Tensor:
        """Token probabilities [B, T', K] -> mask probabilities [B, R, R]."""
        vectors = probabilities @ self.quantize.embedding.weight.to(probabilities.dtype)
        return self.grey(self.quantize.accumulate(vectors)[-1])

    def colours(self, features: Tensor) -> Tensor:
        """Accumulated features -> images in 0..1 [B, 3, R, R]."""
        return (self.decode_features(features).float().clamp(-1, 1) + 1) / 2

    def grey(self, features: Tensor) -> Tensor:
        """Accumulated features -> grey images in 0..1 [B, R, R]."""
        return self.colours(features).mean(1)
