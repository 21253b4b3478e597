"""What HiMTok's mask tokenizer adds to the cost of a micro-batch; see methods/internvl/cost.py."""

from __future__ import annotations

import torch

from methods.common.cost import AnsweringCost, Cost, Load
from methods.himtok.model import HiMTok
from methods.himtok.tokenizer_training import MaskTokenizerTraining
from methods.internvl import cost
from methods.internvl.cost import Part, total, trains


def estimate(trainee: HiMTok | MaskTokenizerTraining, load: Load, precision: torch.dtype) -> Cost:
    """Masks are encoded; where the detokenizer trains, they are decoded as a whole and at each level of the loss."""
    tokenizer, parts = trainee.mask_tokenizer, []
    if load.masks:
        masks = torch.empty(load.masks, 1, tokenizer.resolution, tokenizer.resolution)
        levels = 0
        if isinstance(trainee, MaskTokenizerTraining):
            parts.append(Part(lambda: tokenizer.latents(masks), True))
        else:
            parts.append(Part(lambda: tokenizer.encode(masks), False))
            levels = 0 if trainee.hierarchy.variant == "off" else trainee.hierarchy.levels
        if trains(tokenizer.decoder):
            soft = torch.empty(load.masks, tokenizer.length, tokenizer.size, requires_grad=True)
            parts += [Part(lambda: tokenizer.decode_soft(soft), True)] * (1 + levels)
    return total(trainee, load, precision, parts)


def answering(model: HiMTok, load: Load, precision: torch.dtype) -> AnsweringCost:
    """Mask tokens are written one by one, between a start and an end."""
    length = model.mask_tokenizer.length + 2
    return cost.answering(model, load, precision, steps=length, length=length)
