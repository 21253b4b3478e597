"""What masks as text add to the cost of a micro-batch; see methods/internvl/cost.py. Texts are taken as long as
they can be."""

from __future__ import annotations

from dataclasses import replace

import torch

from methods.common.cost import AnsweringCost, Cost, Load
from methods.internvl import cost
from methods.textmask.model import TextMask


def estimate(trainee: TextMask, load: Load, precision: torch.dtype) -> Cost:
    """See methods.internvl.cost.estimate."""
    spelled = trainee.mask_tokenizer.length if load.masks else 0
    return cost.estimate(trainee, replace(load, text=load.text + spelled, answer=load.answer + spelled), precision)


def answering(model: TextMask, load: Load, precision: torch.dtype) -> AnsweringCost:
    """See methods.internvl.cost.answering."""
    length = model.mask_tokenizer.length
    return cost.answering(model, load, precision, steps=length, length=length)
