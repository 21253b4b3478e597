"""The hierarchical mask loss: a prefix of l tokens must already say where the mask is, blurred.

With l of 32 tokens kept, the detokenizer's output is compared with the mask blurred by a Gaussian of
sigma(l) = 100 / (l + 1) - 2 pixels on the 256-pixel grid (HiMTok, section on the hierarchical mask loss; scaled for
other grids). Each step uses the whole sequence and a few levels drawn with p(l) ~ 1 / (l + 8), 1 <= l < 32.

The released code departs from this in five places; variant "official" is that code:
- a level's index i = -1 .. 30 is drawn with p ~ 1 / (i + 10), its blur is that of the paper's level i + 1;
- i tokens are kept (31 for i = -1), and the others stay in the sequence as zero codes, which embed to a bias;
- labels are divided by their own maximum;
- Dice is taken over the whole batch at once;
- of the drawn levels only the last one counts, times their number.

Shapes: B masks, R side of the grid, T tokens, K codes.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.base import UserError
from methods.himtok.config import HierarchyConfig
from methods.himtok.mask_tokenizer import MaskTokenizer
from methods.precision import exactly

PUBLISHED_GRID = 256  # sigma is given in pixels of this grid


def sigma(level: int, resolution: int) -> float:
    """Width of the blur for a prefix of `level` tokens, in pixels of a grid of side `resolution`."""
    return (100 / (level + 1) - 2) * resolution / PUBLISHED_GRID


@cache
def blur_matrix(width: float, resolution: int) -> Tensor:
    """float32 [R, R]: one axis of a Gaussian blur cut off at 3 sigma, zero padding. Both axes: M x M^T."""
    if width <= 0:
        return torch.eye(resolution)
    reach = math.ceil(3 * width)
    taps = torch.exp(-(torch.arange(-reach, reach + 1, dtype=torch.float64) ** 2) / (2 * width**2))
    taps = torch.cat([taps / taps.sum(), torch.zeros(1, dtype=torch.float64)])
    offset = torch.arange(resolution)[None] - torch.arange(resolution)[:, None] + reach
    return taps[torch.where((offset >= 0) & (offset <= 2 * reach), offset, 2 * reach + 1)].float()


def blurred(masks: Tensor, levels: Tensor, tokens: int) -> Tensor:
    """masks [B, R, R], levels int [B] -> labels [B, R, R]; a level of `tokens` (or more) leaves the mask sharp."""
    resolution = masks.shape[-1]
    widths = [0.0 if level >= tokens else sigma(level, resolution) for level in levels.tolist()]
    return _blur(torch.stack([blur_matrix(width, resolution) for width in widths]), masks)


def _blur(matrix: Tensor, masks: Tensor) -> Tensor:
    """Both axes, in the masks' own precision whatever autocast says."""
    matrix = matrix.to(masks)
    with exactly(masks.device):
        return matrix @ masks @ matrix.mT


def draw_levels(count: int, tokens: int, replacement: bool = False) -> Tensor:
    """int64 [count] levels in 1 .. tokens - 1 with p(l) ~ 1 / (l + 8), from torch's global generator."""
    weights = 1 / (torch.arange(1, tokens, dtype=torch.float64) + 8)
    return torch.multinomial(weights, count, replacement) + 1


def mask_loss(logits: Tensor, target: Tensor, dice_weight: float) -> Tensor:
    """Cross-entropy over pixels plus weighted Dice, per mask and then averaged; both [B, R, R]."""
    bce = F.binary_cross_entropy_with_logits(logits.float(), target)
    p = logits.float().sigmoid().flatten(1)
    t = target.flatten(1)
    dice = 1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
    return bce + dice_weight * dice.mean()


def hierarchical_loss(
    tokenizer: MaskTokenizer, probabilities: Tensor, masks: Tensor, config: HierarchyConfig,
    levels: Tensor | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """The losses "mask" (whole sequence) and "hierarchy" (partial levels).

    probabilities [B, T, K] over codes, masks [B, R, R] in 0..1. levels: int64 to use instead of drawing them (the
    paper's 1 .. T - 1, or the released code's indices -1 .. T - 2).
    """
    if levels is None and config.variant != "off" and config.levels >= probabilities.shape[1]:
        most = probabilities.shape[1] - 1
        raise UserError(f"The hierarchical loss draws {config.levels} different levels of {most}; give fewer levels.")
    codes = tokenizer.mix(probabilities)
    if config.variant == "official":
        return _released(tokenizer, codes, masks, config, levels)
    losses = {"mask": mask_loss(tokenizer.logits(codes), masks, config.dice)}
    if config.variant == "off" or not config.levels:
        return losses
    tokens = codes.shape[1]
    partial = []
    for level in draw_levels(config.levels, tokens).tolist() if levels is None else levels.tolist():
        label = blurred(masks, torch.full((len(masks),), level), tokens)
        partial.append(mask_loss(tokenizer.logits(codes[:, :level]), label, config.dice))
    return losses | {"hierarchy": torch.stack(partial).sum()}


def _released(
    tokenizer: MaskTokenizer, codes: Tensor, masks: Tensor, config: HierarchyConfig, indices: Tensor | None
) -> dict[str, Tensor]:
    if indices is None:
        weights = 1 / (torch.arange(codes.shape[1], dtype=torch.float64) + 9)
        indices = torch.multinomial(weights, config.levels) - 1 if config.levels else torch.zeros(0)
    losses = {"mask": released_mask_loss(tokenizer.logits(codes).sigmoid(), masks, config.dice)}
    if len(indices):
        index = int(indices[-1])
        kept = codes.clone()
        kept[:, index:] = 0  # index -1 keeps all but the last token, as Python's slices do
        loss = released_mask_loss(tokenizer.logits(kept).sigmoid(), released_label(masks, index), config.dice)
        losses["hierarchy"] = len(indices) * loss
    return losses


def released_label(masks: Tensor, index: int) -> Tensor:
    """The released label of an index: the blur of the paper's level index + 1, divided by each mask's maximum."""
    label = _blur(blur_matrix(sigma(index + 1, masks.shape[-1]), masks.shape[-1]), masks)
    return label / label.amax((-2, -1), keepdim=True).clamp(min=1e-6)


def released_mask_loss(probabilities: Tensor, target: Tensor, dice_weight: float) -> Tensor:
    """Cross-entropy over clamped probabilities plus Dice over the whole batch; both [B, R, R]."""
    probabilities = probabilities.float()
    with exactly(probabilities.device):  # which forbids this loss on a GPU
        bce = F.binary_cross_entropy(probabilities.clamp(1e-6, 1 - 1e-6), target)
    overlap, total = (probabilities * target).sum(), probabilities.sum() + target.sum()
    return bce + dice_weight * (1 - (2 * overlap + 1e-6) / (total + 1e-6))
