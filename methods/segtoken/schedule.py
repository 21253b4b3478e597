"""Decoding: the one step that reads `[SEG]`, then the mask decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from methods.segtoken.model import SegToken


class Prompted:
    """methods.base.Schedule. patches: of the image of each row, [tiles, P, V], the tile of the whole image last."""

    vocabulary = unfinished = corrections = None

    def __init__(self, model: SegToken, patches: Sequence[Tensor]):
        self.model, self.patches = model, patches
        self.states: Tensor | None = None

    def first(self, batch: int) -> Tensor:
        start = torch.full((batch, 1), self.model.processor.start_id, device=self.model.device)
        return self.model.backbone.embed(start)

    def next(self, states: Tensor) -> None:
        self.states = states[:, 0]

    def tail(self) -> Tensor:
        return torch.zeros(len(self.states), 0, dtype=torch.long, device=self.states.device)

    def ids(self) -> Tensor:
        return torch.zeros(len(self.states), 1, dtype=torch.long, device=self.states.device)

    def probabilities(self) -> Tensor:
        wholes = torch.stack([each[-1] for each in self.patches])
        return self.model.mask_decoder(self.states, wholes).float().sigmoid()
