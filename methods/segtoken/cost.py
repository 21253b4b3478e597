"""What the mask decoder adds to the cost of a micro-batch; see methods/internvl/cost.py."""

from __future__ import annotations

from dataclasses import replace

import torch

from methods.common.cost import AnsweringCost, Cost, Load
from methods.flops import flop_counter
from methods.internvl import cost
from methods.segtoken.model import SegToken


def estimate(trainee: SegToken, load: Load, precision: torch.dtype) -> Cost:
    """See methods.internvl.cost.estimate."""
    trained = cost.trains(trainee.mask_decoder)
    inputs = _inputs(trainee, load.masks, trained)
    parts = [cost.Part(lambda: trainee.mask_decoder(*inputs), trained)] if load.masks else []
    return cost.total(trainee, load, precision, parts)


def answering(model: SegToken, load: Load, precision: torch.dtype) -> AnsweringCost:
    """See methods.internvl.cost.answering."""
    found = cost.answering(model, load, precision, steps=1, length=1)
    with flop_counter() as counter, torch.no_grad():
        model.mask_decoder(*_inputs(model, load.samples, False))
    return replace(found, flops=found.flops + counter.get_total_flops())


def _inputs(model: SegToken, masks: int, trained: bool) -> tuple[torch.Tensor, torch.Tensor]:
    size, kind = model.backbone.size, next(model.mask_decoder.parameters()).dtype
    patches = (size.image_size // size.patch_size) ** 2
    states = torch.empty(masks, size.text_width, dtype=kind, requires_grad=trained)
    return states, torch.empty(masks, patches, size.vision_width, dtype=kind)
