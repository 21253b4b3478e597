"""Training the picture tokenizer: a stand-in for VAR's published one where that cannot be had.

The published VQ-VAE saw natural images only. This one is trained on scenes and on masks drawn as pictures, half and
half by default, because a small model has no capacity to spare; tables name it as trained here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.argenseg.tokenizer import VQVAE


class CodebookKeeper(nn.Module):
    """Places codes on vectors that the quantiser met, first after `warmup` unquantised steps, and moves the unused
    ones there again every `every` steps."""

    def __init__(self, codec: VQVAE, warmup: int = 200, every: int = 50):
        super().__init__()
        self.warmup, self.every = warmup, every
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.register_buffer("hits", torch.zeros(codec.size))

    @torch.no_grad()
    def before(self, codec: VQVAE, features: Tensor) -> bool:
        """Place codes if their time has come -> whether this step quantises.

        features [B, C, G, G] of this batch, before the codes take part in the graph.
        """
        step = int(self.step) - self.warmup
        self.step += 1
        if step >= 0 and step % self.every == 0:
            quantizer, dead = codec.quantize, (self.hits == 0).nonzero().flatten()
            if step == 0:
                quantizer.embedding.weight.zero_()
            met = residual_cells(quantizer, features.detach().float())
            pick = torch.randint(len(met), (len(dead),), device=met.device)
            noise = 0.01 * met.std() * torch.randn(len(dead), met.shape[1], device=met.device)
            quantizer.embedding.weight[dead] = met[pick] + noise
            if torch.distributed.is_initialized():  # every process has drawn its own cells
                torch.distributed.broadcast(quantizer.embedding.weight.data, 0)
            self.hits.zero_()
        return step >= 0

    @torch.no_grad()
    def after(self, ids: Tensor) -> Tensor:
        """Count a batch's ids, of all processes -> the share of codes used since the last placement."""
        hits = torch.bincount(ids.flatten(), minlength=len(self.hits)).to(self.hits)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(hits)
        self.hits += hits
        return (self.hits > 0).float().mean()


def residual_cells(quantizer, features: Tensor) -> Tensor:
    """What each scale is asked to quantise, [N, C], the same number of cells from every scale but the smallest."""
    rest, cells = features, []
    for k in range(len(quantizer.scales)):
        z = quantizer.shrink(rest, k)
        cells.append(z.flatten(0, 1))
        rest = rest - quantizer.contribution(quantizer.embedding(quantizer.nearest(z)), k)
    most = 2048
    return torch.cat([c[torch.randperm(len(c), device=c.device)[:most]] for c in cells])


def tokenizer_loss(codec: VQVAE, keeper: CodebookKeeper, pictures: Tensor, masks: int) -> dict[str, Tensor]:
    """pictures [B, 3, R, R] in -1..1, of which the first `masks` are drawn masks -> losses and what to watch."""
    features = codec.features(pictures)
    quantised = keeper.before(codec, features)
    quantized, ids, quantizer = codec.quantize(features)
    if not quantised:
        quantized, quantizer = features, 0 * quantizer
    drawn = codec.draw(quantized).float()
    with torch.no_grad():
        predicted, truth = drawn[:masks].mean(1) > 0, pictures[:masks, 0] > 0
        union = (predicted | truth).flatten(1).sum(1).clamp(min=1)
        iou = ((predicted & truth).flatten(1).sum(1) / union).mean()
    used = codec.quantize.count(ids)
    return {
        "l1": F.l1_loss(drawn, pictures),
        "l2": F.mse_loss(drawn, pictures),
        "quantizer": quantizer,
        "_iou": iou,
        "_codes_used": keeper.after(ids),
        **{f"_codes_used_{side}": share for side, share in zip(codec.quantize.scales, used, strict=True)},
    }
