"""Stage 1: training the mask tokenizer itself, which nobody has released.

Half of each batch is decoded from all tokens and compared with the sharp mask; the other half from a random prefix
and compared with the mask blurred as in the hierarchical loss, so that order comes to mean coarse to fine.
The first `warmup` steps pass the latents on unquantised: quantising the latents of an untrained encoder lets the
decoder ignore them and the code book collapse. Then all codes are placed on latents that were seen, and codes that no
mask chose for a while are placed there anew (dead-code revival).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.himtok.hierarchy import blurred, draw_levels, mask_loss
from methods.himtok.mask_tokenizer import MaskTokenizer


class CodebookKeeper(nn.Module):
    """Counts how often each code was chosen and places the unused ones; lives only while stage 1 trains.

    warmup: steps before the first placement, of all codes; every: steps between the later ones, of those that nothing
    chose. placed: the codes are trained ones, so that a first placement is not due.
    """

    def __init__(self, codec: MaskTokenizer, warmup: int = 300, every: int = 50, placed: bool = False):
        super().__init__()
        self.warmup, self.every = warmup, every
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.register_buffer("hits", torch.full((codec.size,), float(placed)))

    @torch.no_grad()
    def before(self, codec: MaskTokenizer, z: Tensor) -> bool:
        """Place codes if their time has come -> whether this step quantises.

        z [B, T, D] are the batch's latents. Must run before the codes take part in the graph.
        """
        step = int(self.step) - self.warmup
        self.step += 1
        if step >= 0 and step % self.every == 0:
            dead = (self.hits == 0).nonzero().flatten()
            fresh = F.normalize(z.detach().float().flatten(0, 1), dim=-1)
            fresh = fresh[torch.randint(len(fresh), (len(dead),), device=z.device)]
            fresh = fresh + 0.01 * torch.randn_like(fresh)
            quantizer = codec.quantize
            placed = torch.linalg.solve(quantizer.embedding_proj.weight.float(), fresh.T).T
            quantizer.embedding.weight[dead] = placed.to(quantizer.embedding.weight)
            if torch.distributed.is_initialized():  # every process has drawn its own latents
                torch.distributed.broadcast(quantizer.embedding.weight.data, 0)
            self.hits.zero_()
        return step >= 0

    @torch.no_grad()
    def after(self, ids: Tensor) -> Tensor:
        """Count a batch's ids [B, T], of all processes -> the share of codes used since the last placement."""
        hits = torch.bincount(ids.flatten(), minlength=len(self.hits)).to(self.hits)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(hits)
        self.hits += hits
        return (self.hits > 0).float().mean()


def tokenizer_loss(codec: MaskTokenizer, keeper: CodebookKeeper, masks: Tensor, dice: float) -> dict[str, Tensor]:
    """masks [B, 1, R, R] in 0..1 -> losses "reconstruction" and "quantizer", and what is worth watching."""
    z = codec.latents(masks)
    quantised = keeper.before(codec, z)
    codes, ids, quantizer = codec.quantize(z)
    if not quantised:
        codes, quantizer = F.normalize(z.float(), dim=-1), 0 * quantizer
    tokens, count = codec.length, len(masks)
    kept = torch.full((count,), tokens)
    kept[count // 2 :] = draw_levels(count - count // 2, tokens, replacement=True)
    kept = kept.to(masks.device)
    logits = codec.logits(codes, kept)
    target = blurred(masks[:, 0], kept, tokens)
    with torch.no_grad():
        whole = max(1, count // 2)
        predicted, truth = logits[:whole] > 0, masks[:whole, 0] > 0.5
        union = (predicted | truth).flatten(1).sum(1).clamp(min=1)
        iou = ((predicted & truth).flatten(1).sum(1) / union).mean()
    reconstruction = mask_loss(logits, target, dice)
    return {
        "reconstruction": reconstruction,
        "quantizer": quantizer,
        "_iou": iou,
        "_codes_used": keeper.after(ids),
    }
