"""VAR's multi-scale residual quantiser: a feature map as token maps of growing size.

Scale k quantises what the scales before it have left over: the residual is area-averaged to s_k x s_k, each cell
takes its nearest code, the codes are enlarged again, passed through a small convolution phi and added to the running
sum F. Everything runs in float32, because a lower precision changes ids (a third of them in bfloat16).

Every function returns new tensors; nothing is changed in place.

Shapes: B maps, C code width, G side of the feature map, s side of a scale, K codes, T all tokens.
Source: VAR (NeurIPS 2024), section 3 and its released code for the constants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.precision import exactly

# Two of these scales lie exactly between two phis, where the reference's float64 rounding decides; the released
# weights need its decision, so the outcome is written down instead of the arithmetic.
PHI_OF_SCALE = {(4, 10): (0, 0, 1, 1, 1, 2, 2, 3, 3, 3), (4, 5): (0, 1, 2, 2, 3)}


def phi_of_scale(phis: int, scales: int) -> tuple[int, ...]:
    """Which phi serves each scale: the nearest of `phis` ticks spread over the scales (the first on a tie)."""
    if (phis, scales) in PHI_OF_SCALE:
        return PHI_OF_SCALE[phis, scales]
    if scales == 1:
        return (0,)
    margin = 1 / 3 / phis if phis == 4 else 1 / 2 / phis
    ticks = np.linspace(margin, 1 - margin, phis)
    return tuple(int(np.abs(ticks - k / (scales - 1)).argmin()) for k in range(scales))


def area_matrix(grid: int, side: int) -> Tensor:
    """float32 [side, grid]: one axis of an area average (the same bins as adaptive average pooling)."""
    basis = torch.eye(grid, dtype=torch.float64, device="cpu").view(grid, 1, grid, 1)
    rows = F.adaptive_avg_pool2d(basis, (side, 1))
    return rows[:, 0, :, 0].T.float().contiguous().to(torch.get_default_device())


def bicubic_matrix(side: int, grid: int) -> Tensor:
    """float32 [grid, side]: one axis of a bicubic enlargement (a = -3/4, half-pixel centres, edges clamped)."""
    # on the CPU whatever device is the default: on `meta` this resize is decomposed in Python, for a second a model
    basis = torch.eye(side, dtype=torch.float64, device="cpu").view(side, 1, side, 1)
    columns = F.interpolate(basis, size=(grid, 1), mode="bicubic", align_corners=False)
    return columns[:, 0, :, 0].T.float().contiguous().to(torch.get_default_device())


def both_axes(matrix: Tensor) -> Tensor:
    """A resize of one axis [m, n] -> the resize of flattened squares [n * n, m * m], so that it is one product."""
    return torch.kron(matrix, matrix).T.contiguous()


def exact(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A method that computes in float32, whatever autocast or its own module's precision say."""

    @wraps(function)
    def in_float32(self: ResidualQuantizer, values: Tensor, *rest: Any) -> Tensor:
        with exactly(values.device):
            return function(self, values.float(), *rest)

    return in_float32


class ResidualQuantizer(nn.Module):
    """Codes, phis and the fixed resizes for one list of scales; the last scale must be the feature map's own side.

    Tensor names are VAR's. `ema_vocab_hit_SV` [scales, K] counts how often each code is chosen, see `count`.
    """

    def __init__(
        self, codes: int, width: int, scales: Sequence[int], phis: int, beta: float = 0.25, phi_ratio: float = 0.5
    ):
        super().__init__()
        self.scales, self.beta, self.phi_ratio = tuple(scales), beta, phi_ratio
        self.grid = self.scales[-1]
        self.embedding = nn.Embedding(codes, width)
        nn.init.uniform_(self.embedding.weight, -1 / codes, 1 / codes)
        self.quant_resi = nn.ModuleDict(
            {"qresi_ls": nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(phis))}
        )
        self.phi_index = phi_of_scale(phis, len(self.scales))
        self.register_buffer("ema_vocab_hit_SV", torch.zeros(len(self.scales), codes))
        for k, side in enumerate(self.scales[:-1]):  # the last scale is not resized
            self.register_buffer(f"area_{k}", both_axes(area_matrix(self.grid, side)), persistent=False)
            self.register_buffer(f"bicubic_{k}", both_axes(bicubic_matrix(side, self.grid)), persistent=False)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens per scale."""
        return tuple(side * side for side in self.scales)

    # ---- one scale ------------------------------------------------------------------------------------------

    @exact
    def nearest(self, cells: Tensor) -> Tensor:
        """Vectors [..., C] -> ids [...], by plain squared distance (codes are not normalised)."""
        table = self.embedding.weight.float()
        # without the cell's own norm, which is the same for every code and would only cost precision
        distance = torch.addmm((table**2).sum(-1), cells.flatten(0, -2), table.T, alpha=-2)
        return distance.argmin(-1).view(cells.shape[:-1])

    @exact
    def shrink(self, maps: Tensor, k: int) -> Tensor:
        """[B, C, G, G] -> the cells of scale k, row-major [B, s_k^2, C]."""
        flat = maps.flatten(2)
        return (flat if k == len(self.scales) - 1 else flat @ getattr(self, f"area_{k}").float()).transpose(1, 2)

    @exact
    def contribution(self, vectors: Tensor, k: int) -> Tensor:
        """Code vectors [B, s_k^2, C] of scale k, row-major -> what they add to F [B, C, G, G]."""
        h = vectors.transpose(1, 2)
        h = h.contiguous() if k == len(self.scales) - 1 else h @ getattr(self, f"bicubic_{k}").float()
        h = h.view(len(vectors), -1, self.grid, self.grid)
        phi = self.quant_resi["qresi_ls"][self.phi_index[k]]
        convolved = F.conv2d(h, phi.weight.float(), phi.bias.float(), padding=1)
        return (1 - self.phi_ratio) * h + self.phi_ratio * convolved

    # ---- whole maps -----------------------------------------------------------------------------------------

    def split(self, tokens: Tensor) -> list[Tensor]:
        """[B, T', ...] -> one tensor per complete scale."""
        parts, start = [], 0
        for length in self.lengths:
            if start + length > tokens.shape[1]:
                break
            parts.append(tokens[:, start : start + length])
            start += length
        return parts

    @torch.no_grad()
    def encode(self, features: Tensor) -> Tensor:
        """[B, C, G, G] -> ids int64 [B, T]."""
        rest, ids = features.float(), []
        for k in range(len(self.scales)):
            ids.append(self.nearest(self.shrink(rest, k)))
            rest = rest - self.contribution(self.embedding(ids[-1]), k)
        return torch.cat(ids, 1)

    def accumulate(self, vectors: Tensor) -> list[Tensor]:
        """Code vectors [B, T', C] of whole scales -> F after each of them, float32 [B, C, G, G]."""
        total, sums = 0.0, []
        for k, part in enumerate(self.split(vectors)):
            total = total + self.contribution(part, k)
            sums.append(total)
        return sums

    def teacher_forcing(self, ids: Tensor) -> Tensor:
        """ids [B, T] -> the inputs of all tokens but the first [B, T - 1, C]: F after each scale, shrunk to the next
        scale's side. With one scale only, which has none before it, the code of the token before."""
        if len(self.scales) == 1:
            return self.embedding(ids[:, :-1]).float()
        sums = self.accumulate(self.embedding(ids))[:-1]
        inputs = [self.shrink(total, k + 1) for k, total in enumerate(sums)]
        return torch.cat(inputs, 1)

    @torch.no_grad()
    def count(self, ids: Tensor) -> Tensor:
        """Add a batch's ids [B, T], of all processes, to the usage counters -> the share of codes in use [scales].

        A counter is a running mean over some 100 steps; a code is in use from 8 % of an even share on. (VAR's own
        counters take each scale for a step, so that they start too low and slow down ten times too early.)
        """
        codes = len(self.embedding.weight)
        hits = torch.stack([part.flatten().bincount(minlength=codes) for part in self.split(ids)]).float()
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(hits)
        counter = self.ema_vocab_hit_SV
        counter.copy_(torch.where(counter.sum(1, keepdim=True) > 0, 0.99 * counter + 0.01 * hits, hits))
        return (counter >= 0.08 * hits.mean(1, keepdim=True)).float().mean(1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Training: -> straight-through F [B, C, G, G], ids [B, T], and the quantiser's loss.

        The loss is the mean over scales of beta * |sg(F_k) - f|^2 + |F_k - sg(f)|^2: the first term trains the
        encoder, the second codes and phis (VAR's released quantiser).
        """
        features = features.float()
        target = features.detach()
        ids = self.encode(target)
        sums = self.accumulate(self.embedding(ids))
        loss = sum(
            self.beta * F.mse_loss(total.detach(), features) + F.mse_loss(total, target) for total in sums
        ) / len(sums)
        return features + (sums[-1] - features).detach(), ids, loss
