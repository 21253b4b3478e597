"""What ARGenSeg's codec adds to the cost of a micro-batch; see methods/internvl/cost.py."""

from __future__ import annotations

import torch

from methods.argenseg.model import ARGenSeg
from methods.internvl.cost import Cost, Load, Part, total


def cost(method: ARGenSeg, load: Load, precision: torch.dtype) -> Cost:
    """Masks become pictures and ids by the frozen VQ-VAE; its own stage runs it both ways and trains it."""
    codec, parts, trained = method.codec, [], method.stage == "tokenizer"
    if load.masks:
        pictures = torch.empty(load.masks, 3, codec.resolution, codec.resolution)
        parts.append(Part(lambda: codec.encoder(pictures), trained))
        if trained:
            grid, width = codec.quantize.grid, codec.config.code_width
            features = torch.empty(load.masks, width, grid, grid, requires_grad=True)
            parts.append(Part(lambda: codec.draw(features), True))
    return total(method, load, precision, parts)
