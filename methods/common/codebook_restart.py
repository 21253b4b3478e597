"""Dead codes of a codebook in training: counted, and placed again where the encoder's vectors are.

Shapes: K codes, C width of a code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class CodebookRestart(nn.Module):
    """Counts how often each code was chosen and places the unused ones; lives only while a mask tokenizer trains.

    warmup: steps, unquantised, before the first placement, of all codes; every: steps between the later ones, of those
    that nothing chose. placed: the codes are trained ones, so that a first placement is not due. All processes count
    the same hits and hold the same codes.
    """

    def __init__(self, codes: int, warmup: int, every: int = 50, placed: bool = False):
        super().__init__()
        self.warmup, self.every, self.placed = warmup, every, placed
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.register_buffer("hits", torch.full((codes,), float(placed)))

    def fresh(self, tokenizer: Any, latents: Tensor, count: int, first: bool) -> Tensor:
        """Values [count, C] for codes near a batch's latents; `first` placement of all codes, or a later one."""
        raise NotImplementedError

    @torch.no_grad()
    def before(self, tokenizer: Any, latents: Tensor) -> bool:
        """Place codes if their time has come -> whether this step quantises.

        Must run before the codes take part in the graph of the batch that has these latents.
        """
        step = int(self.step) - self.warmup
        self.step += 1
        if step >= 0 and step % self.every == 0:
            dead, weight = (self.hits == 0).nonzero().flatten(), tokenizer.quantize.embedding.weight
            first = step == 0 and not self.placed
            weight[dead] = self.fresh(tokenizer, latents.detach().float(), len(dead), first).to(weight)
            if torch.distributed.is_initialized():  # every process has drawn from its own latents
                torch.distributed.broadcast(weight.data, 0)
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
