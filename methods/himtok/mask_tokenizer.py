"""HiMTok's mask tokenizer: a mask as up to 32 one-dimensional tokens in which every prefix is a coarser mask.

encoder (ViT with appended causal latents) -> l2-normalised vector quantiser -> detokenizer (ViT) -> pixel decoder.
Tensor names are those of the released model, so that its state dict loads without a key table.

Shapes: B masks, R side of the mask in pixels, G = R / patch, W width, T latents, D code width, K codes.
Source: HiMTok's official tokenizer; where it departs from a causal, self-consistent design the switch is named in
MaskTokenizerConfig and the default is the consistent one.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from methods.base import UserError
from methods.common.masks import bilinear_mask, nearest_mask
from methods.himtok.config import MaskTokenizerConfig
from methods.himtok.pixel_decoder import PixelDecoder, Stem, SubpixelDecoder
from methods.internvl.positions import grid_positions
from methods.precision import exactly

ANCHOR, PEAKED = 0.5, 1.2  # of the start "anchored": weight of the latents' places, factor on queries and keys


class Block(nn.Module):
    """Pre-norm transformer block with exact GELU and an MLP four times as wide."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)  # for its parameters and their names
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor, blocked: Tensor | None = None) -> Tensor:
        """x [B, L, W]; blocked bool [L, L], true where row must not see column."""
        x = x + self._attention(self.ln_1(x), None if blocked is None else ~blocked)
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))

    def _attention(self, x: Tensor, seen: Tensor | None) -> Tensor:
        """Multi-head attention; as plain products where a CPU computes it in bfloat16, because the fused kernel is
        slower there at these lengths."""
        qkv = F.linear(x, self.attn.in_proj_weight, self.attn.in_proj_bias)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if x.device.type == "cpu" and q.dtype == torch.bfloat16:
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
            y = (scores if seen is None else scores.masked_fill(~seen, -torch.inf)).softmax(-1).to(v.dtype) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return self.attn.out_proj(y.transpose(1, 2).flatten(2))


class Encoder(nn.Module):
    """Mask [B, 3, R, R] -> code-space vectors z [B, T, D], before normalisation."""

    def __init__(self, config: MaskTokenizerConfig):
        super().__init__()
        self.config = config
        width, patches, scale = config.width, config.grid**2, config.width**-0.5
        self.class_embedding = nn.Parameter(scale * torch.randn(1, width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(patches + 1, width))
        self.latent_token_positional_embedding = nn.Parameter(scale * torch.randn(config.latents, width))
        if config.stem == "convolutional":
            self.patch_embed = Stem(width, config.patch)
        else:
            self.patch_embed = nn.Conv2d(3, width, config.patch, config.patch)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = nn.ModuleList(Block(width, config.heads) for _ in range(config.encoder_layers))
        self.ln_post = nn.LayerNorm(width)
        self.conv_out = nn.Conv2d(width, config.code_width, 1)
        self.register_buffer("attn_mask", self._blocked(patches + 1, config.latents))

    @staticmethod
    def _blocked(image: int, latents: int) -> Tensor:
        """Image tokens see each other only; latent k sees the image and latents 0..k."""
        blocked = torch.ones(image + latents, image + latents, dtype=torch.bool)
        blocked[:, :image] = False
        blocked[image:, image:] = torch.ones(latents, latents, dtype=torch.bool).triu(1)
        return blocked

    def forward(self, pixels: Tensor, latent_tokens: Tensor) -> Tensor:
        patches = self.patch_embed(pixels).flatten(2).transpose(1, 2)
        image = torch.cat([self.class_embedding.expand(len(patches), 1, -1), patches], 1) + self.positional_embedding
        latents = (latent_tokens + self.latent_token_positional_embedding).expand(len(patches), -1, -1)
        x = self.ln_pre(torch.cat([image, latents.to(image.dtype)], 1))
        for block in self.transformer:
            x = block(x, self.attn_mask)
        x = self.ln_post(x[:, -self.config.latents :])
        if self.config.encoder_layout == "official":
            x = x.reshape(len(x), self.config.width, self.config.latents, 1)
        else:
            x = x.transpose(1, 2).unsqueeze(-1)
        return self.conv_out(x)[..., 0].transpose(1, 2)


class Quantizer(nn.Module):
    """Nearest code on the unit sphere; always in float32, because bfloat16 changes ids."""

    def __init__(self, config: MaskTokenizerConfig):
        super().__init__()
        self.commitment = config.commitment
        self.embedding = nn.Embedding(config.codes, config.code_width)
        self.embedding_proj = nn.Linear(config.code_width, config.code_width, bias=False)
        nn.init.uniform_(self.embedding.weight, -1 / config.codes, 1 / config.codes)

    def table(self) -> Tensor:
        """The effective codes [K, D] (not normalised)."""
        with exactly(self.embedding.weight.device):
            return F.linear(self.embedding.weight.float(), self.embedding_proj.weight.float())

    def ids(self, z: Tensor) -> Tensor:
        """z [B, T, D] -> ids int64 [B, T], the first of equally near codes."""
        with exactly(z.device):
            z, codes = F.normalize(z.float(), dim=-1), F.normalize(self.table(), dim=-1)
            distance = (z**2).sum(-1, keepdim=True) + (codes**2).sum(-1) - 2 * z @ codes.T
            return distance.argmin(-1)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """-> straight-through unit vectors [B, T, D], ids [B, T], codebook plus weighted commitment loss."""
        ids = self.ids(z)
        with exactly(z.device):
            z = F.normalize(z.float(), dim=-1)
            codes = F.normalize(self.table(), dim=-1)[ids]
            loss = self.commitment * F.mse_loss(codes.detach(), z) + F.mse_loss(codes, z.detach())
            return z + (codes - z).detach(), ids, loss


class Detokenizer(nn.Module):
    """Code vectors [B, T', D] with T' <= T -> features [B, ffn_out, G, G]. No attention mask."""

    def __init__(self, config: MaskTokenizerConfig):
        super().__init__()
        self.config = config
        width, heads = config.decoder_width or config.width, config.decoder_heads or config.heads
        patches, scale = config.grid**2, width**-0.5
        self.class_embedding = nn.Parameter(scale * torch.randn(1, width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(patches + 1, width))
        self.mask_token = nn.Parameter(scale * torch.randn(1, 1, width))
        self.latent_token_positional_embedding = nn.Parameter(scale * torch.randn(config.latents, width))
        self.decoder_embed = nn.Linear(config.code_width, width)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = nn.ModuleList(Block(width, heads) for _ in range(config.decoder_layers))
        self.ln_post = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.Tanh(), nn.Conv2d(2 * width, config.ffn_out, 1))

    def forward(self, codes: Tensor, kept: Tensor | None = None) -> Tensor:
        """kept int [B]: tokens from there on become zero vectors after the embedding, as if they had not been
        written."""
        config = self.config
        latents = self.decoder_embed(codes)
        if kept is not None:
            exists = torch.arange(codes.shape[1], device=codes.device) < kept[:, None]
            latents = latents * exists.unsqueeze(-1).to(latents.dtype)
        latents = F.pad(latents, (0, 0, 0, config.latents - codes.shape[1]))
        latents = latents + self.latent_token_positional_embedding
        queries = self.mask_token.expand(len(codes), config.grid**2, -1)
        image = torch.cat([self.class_embedding.expand(len(codes), 1, -1), queries], 1) + self.positional_embedding
        x = self.ln_pre(torch.cat([image.to(latents.dtype), latents], 1))
        for block in self.transformer:
            x = block(x)
        x = self.ln_post(x[:, 1 : 1 + config.grid**2])
        # contiguous, because GroupNorm's backward is several times slower on the channels-last view of the transpose
        return self.ffn(x.transpose(1, 2).contiguous().view(len(x), -1, config.grid, config.grid))


class MaskTokenizer(nn.Module):
    """methods.base.MaskTokenizer, with `decode` for 1 to 32 tokens."""

    def __init__(self, config: MaskTokenizerConfig):
        super().__init__()
        self.config = config
        self.latent_tokens = nn.Parameter(config.width**-0.5 * torch.randn(config.latents, config.width))
        self.encoder = Encoder(config)
        self.quantize = Quantizer(config)
        self.decoder = Detokenizer(config)
        if config.pixel_decoder == "subpixel":
            self.pixel_decoder = SubpixelDecoder(config.ffn_out, config.pixel_base, config.patch, config.pixel_blocks)
        else:
            self.pixel_decoder = PixelDecoder(
                config.ffn_out, config.pixel_base, config.pixel_multipliers, config.pixel_blocks, config.mid_blocks
            )

    @torch.no_grad()
    def initialise_from_scratch(self) -> None:
        """Start values for stage 1: position embeddings that say where a patch lies, so that geometry need not be
        learnt first. In one short run at 64 px it began faster than from random ones; no controlled comparison."""
        for part in (self.encoder, self.decoder):
            width = part.positional_embedding.shape[1]
            part.positional_embedding[1:] = 0.5 * grid_positions(self.config.grid, width, self.config.grid)
            if self.config.start == "anchored":
                anchors = anchor_positions(self.length, width, self.config.grid)
                part.latent_token_positional_embedding.add_(ANCHOR * anchors)
                for block in part.transformer:
                    query, key, _ = block.attn.in_proj_weight.chunk(3)
                    key.copy_(query.mul_(PEAKED))
        weight = self.quantize.embedding_proj.weight  # well conditioned, so that codes can be placed
        weight.copy_(nn.init.orthogonal_(torch.empty_like(weight, dtype=torch.float32)))  # has no bfloat16 on a CPU

    @property
    def resolution(self) -> int:
        return self.config.resolution

    @property
    def length(self) -> int:
        return self.config.latents

    @property
    def size(self) -> int:
        return self.config.codes

    @property
    def prefixes(self) -> tuple[int, ...]:
        """Token counts at which the mask tokenizer is measured."""
        return tuple(n for n in (1, 2, 4, 8, 16, 24) if n < self.length) + (self.length,)

    def preprocess_mask(self, mask: np.ndarray) -> np.ndarray:
        return preprocess_mask(mask, self.resolution, "The mask")

    def postprocess_mask(self, probabilities: Tensor, size: tuple[int, int], mask_resize: str = "") -> np.ndarray:
        """The official evaluation takes the nearest probability for each pixel, which the boundary of a small object
        shows: with 256 pixels a side no mask of less than 1 % of the image can then reach more than some .92 IoU."""
        if (mask_resize or self.config.mask_resize) == "bilinear":
            return bilinear_mask(probabilities, size)
        return nearest_mask(probabilities, size)

    def latents(self, masks: Tensor) -> Tensor:
        """float [B, 1, R, R] in 0..1 -> z [B, T, D] before normalisation."""
        return self.encoder(masks.expand(-1, 3, -1, -1), self.latent_tokens)

    @torch.no_grad()
    def encode(self, masks: Tensor, tokens: int | None = None) -> Tensor:
        """float [B, 1, R, R] in 0..1 -> the first `tokens` ids (all T for None), int64; float32 without TF32, whatever
        the caller's settings.

        Raises UserError for masks of another kind or size.
        """
        wanted = (1, self.resolution, self.resolution)
        if not masks.is_floating_point() or masks.ndim != 4 or masks.shape[1:] != wanted:
            found = f"{masks.dtype} {list(masks.shape)}"
            raise UserError(f"The masks are {found}, but must be floats in 0..1 of shape {list(wanted)} each.")
        with exactly(masks.device):
            return self.quantize.ids(self.latents(masks.float()))[:, :tokens]

    def decode(self, ids: Tensor) -> Tensor:
        """ids [B, T'] with 1 <= T' <= T -> probabilities [B, R, R]. Raises UserError for ids that do not exist."""
        if ids.ndim != 2 or not 1 <= ids.shape[1] <= self.length:
            raise UserError(f"The ids are {list(ids.shape)}, but a mask is one row of 1 to {self.length} tokens.")
        wrong = ids[(ids < 0) | (ids >= self.size)]
        if len(wrong):
            raise UserError(f"There is no mask token {int(wrong[0])}; ids run from 0 to {self.size - 1}.")
        return self.logits(F.normalize(self.quantize.table(), dim=-1)[ids]).sigmoid()

    def decode_soft(self, probabilities: Tensor, kept: Tensor | None = None) -> Tensor:
        """Token probabilities [B, T', K] -> mask probabilities [B, R, R], differentiable."""
        return self.logits(self.mix(probabilities), kept).sigmoid()

    def mix(self, probabilities: Tensor) -> Tensor:
        """Expected code vectors [B, T', D] under token probabilities, in the space that `code_space` names."""
        table = self.quantize.table()
        if self.config.code_space == "normalised":
            table = F.normalize(table, dim=-1)
        return probabilities @ table.to(probabilities.dtype)

    def logits(self, codes: Tensor, kept: Tensor | None = None) -> Tensor:
        """Code vectors [B, T', D] -> mask logits float32 [B, R, R]: 5 (m - 1/2) with m the mean of the channels."""
        pixels = self.pixel_decoder(self.decoder(codes, kept)).float()
        return 5 * (pixels.mean(1) - 0.5)


def anchor_positions(latents: int, width: int, grid: int) -> Tensor:
    """Places for the latents [T, W], coarse to fine: the cells of 2 x 2, 3 x 3 ... parts of the image as far as all of
    them fit, after as many latents without a place as are left (32: three, then 4, 9 and 16)."""
    sides = []
    while sum(side**2 for side in (*sides, len(sides) + 2)) <= latents:
        sides.append(len(sides) + 2)
    free = latents - sum(side**2 for side in sides)
    return torch.cat([torch.zeros(free, width), *(grid_positions(side, width, grid) for side in sides)])


def preprocess_mask(mask: np.ndarray, side: int, where: str) -> np.ndarray:
    """A mask bool [H, W] as the official code sees it: 8-bit grey, bicubic to a square, soft edges stay."""
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.ndim != 2 or not mask.size:
        found = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise UserError(f"{where}: the mask is {found}, but must be bool [height, width]; compare with > 0 first.")
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(grey.resize((side, side), Image.Resampling.BICUBIC), np.float32) / 255
