"""What ARGenSeg's VQ-VAE adds to the cost of a micro-batch; see methods/internvl/cost.py."""

from __future__ import annotations

import torch

from methods.argenseg.model import ARGenSeg
from methods.argenseg.tokenizer_training import ImageTokenizerTraining
from methods.common.cost import AnsweringCost, Cost, Load
from methods.internvl import cost
from methods.internvl.cost import Part, total


def estimate(trainee: ARGenSeg | ImageTokenizerTraining, load: Load, precision: torch.dtype) -> Cost:
    """Masks become images and ids by the frozen VQ-VAE; its own stage runs it both ways and trains it."""
    tokenizer, parts, trained = trainee.mask_tokenizer, [], isinstance(trainee, ImageTokenizerTraining)
    if load.masks:
        images = torch.empty(load.masks, 3, tokenizer.resolution, tokenizer.resolution)
        parts.append(Part(lambda: tokenizer.encoder(images), trained))
        if trained:
            grid, width = tokenizer.quantize.grid, tokenizer.config.code_width
            features = torch.empty(load.masks, width, grid, grid, requires_grad=True)
            parts.append(Part(lambda: tokenizer.decode_features(features), True))
    return total(trainee, load, precision, parts)


def answering(model: ARGenSeg, load: Load, precision: torch.dtype) -> AnsweringCost:
    """Image tokens are written a whole scale at a time."""
    tokenizer = model.mask_tokenizer
    steps = len(tokenizer.prefixes) if model.variant.order == "scale" else tokenizer.length
    return cost.answering(model, load, precision, steps, length=tokenizer.length + 1)
