"""ARGenSeg's decoding: one whole scale per step, fed with the upsampled sum of all earlier scales."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from methods.argenseg.model import ARGenSeg


class ScaleByScale:
    """methods.base.Schedule for the first `scales` scales of a picture, all ten for a whole one.

    Scale 1 is predicted from the start token itself.
    """

    def __init__(self, method: ARGenSeg, scales: int):
        self.method = method
        self.scales = scales
        self.quantizer = method.codec.quantize
        self.vocabulary = (method.low, method.low + method.codec.size)
        self.features: Tensor | float = 0.0
        self.chosen: list[Tensor] = []

    def first(self, batch: int) -> Tensor:
        return self.method.backbone.embed(torch.full((batch, 1), self.method.start_id, device=self.method.device))

    def next(self, logits: Tensor) -> Tensor | None:
        k = len(self.chosen)
        ids = logits.float().argmax(-1)
        self.chosen.append(ids)
        self.features = self.features + self.quantizer.contribution(self.quantizer.embedding(ids), k)
        if k + 1 == self.scales:
            return None
        cells = self.quantizer.shrink(self.features, k + 1)
        start = sum(self.quantizer.lengths[: k + 1])
        return self.method.slot_inputs(cells, start)

    def tail(self) -> Tensor:
        batch = len(self.chosen[0])
        return torch.full((batch, 1), self.method.end_id, device=self.method.device)

    def ids(self) -> Tensor:
        return torch.cat(self.chosen, 1)

    def probabilities(self) -> Tensor:
        return self.method.codec.grey(self.features)
