"""What HiMTok's codec adds to the cost of a micro-batch; see methods/internvl/cost.py."""

from __future__ import annotations

import torch

from methods.himtok.model import HiMTok
from methods.internvl.cost import Cost, Load, Part, total, trains


def cost(method: HiMTok, load: Load, precision: torch.dtype) -> Cost:
    """Masks are encoded; where the detokenizer trains, they are decoded as a whole and at each level of the loss."""
    codec, parts = method.codec, []
    if load.masks:
        side = codec.resolution
        masks = torch.empty(load.masks, 1, side, side)
        if method.stage == "tokenizer":
            parts.append(Part(lambda: codec.latents(masks), True))
        else:
            parts.append(Part(lambda: codec.encode(masks), False))
        levels = 0 if method.stage == "tokenizer" or method.hierarchy.variant == "off" else method.hierarchy.levels
        if trains(codec.decoder):
            soft = torch.empty(load.masks, codec.length, codec.size, requires_grad=True)
            parts += [Part(lambda: codec.decode_soft(soft), True)] * (1 + levels)
    return total(method, load, precision, parts)
