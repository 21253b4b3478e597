"""What masks as text add to the cost of a micro-batch; see methods/internvl/cost.py. Texts are of the usual length, and
for the largest load, of the most tiles, as long as they can be."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from methods.common.cost import AnsweringCost, Cost, Load
from methods.internvl import cost
from methods.textmask.model import TextMask


def estimate(trainee: TextMask, load: Load, precision: torch.dtype) -> Cost:
    """See methods.internvl.cost.estimate."""
    notation = trainee.mask_tokenizer.notation(None)
    most = load.tiles is not None and math.isinf(load.tiles)
    spelled = (notation.length if most else notation.usual) if load.masks else 0
    return cost.estimate(trainee, replace(load, text=load.text + spelled, answer=load.answer + spelled), precision)


def answering(model: TextMask, load: Load, precision: torch.dtype) -> AnsweringCost:
    """See methods.internvl.cost.answering. The cache has room for the longest text."""
    notation = model.mask_tokenizer.notation(None)
    found = cost.answering(model, load, precision, steps=notation.usual, length=notation.usual)
    longest = cost.answering(model, load, precision, steps=notation.length, length=notation.length)
    return replace(found, cache=longest.cache)
