"""The plainest schedule: one mask token per step, each fed as its own embedding."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.base import MaskTokenizer
from methods.internvl.backbone import Backbone


class OneByOne:
    """methods.base.Schedule for blocks of `tokens` (all, if None) mask tokens between the ids of a start and an end
    token; `offset` is the vocabulary's row of mask token 0. The likeliest token is fed and decoded."""

    unfinished = corrections = None

    def __init__(
        self, backbone: Backbone, mask_tokenizer: MaskTokenizer, start_id: int, offset: int, end_id: int,
        tokens: int | None = None,
    ):  # fmt: skip
        self.backbone, self.mask_tokenizer = backbone, mask_tokenizer
        self.start_id, self.offset, self.end_id = start_id, offset, end_id
        self.tokens = mask_tokenizer.length if tokens is None else tokens
        self.chosen: list[Tensor] = []
        self.unfed = False  # whether the last chosen token has still to be fed

    @property
    def vocabulary(self) -> tuple[int, int]:
        return self.offset, self.offset + self.mask_tokenizer.size

    def first(self, batch: int) -> Tensor:
        table = self.backbone.language_model.embed_tokens.weight
        return self.backbone.embed(torch.full((batch, 1), self.start_id, device=table.device))

    def next(self, logits: Tensor) -> Tensor | None:
        self.chosen.append(logits.argmax(-1))
        self.unfed = len(self.chosen) == self.tokens
        return None if self.unfed else self.backbone.embed(self.chosen[-1] + self.offset)

    def tail(self) -> Tensor:
        """The last mask token if no step has fed it yet, and the end token."""
        last = self.chosen[-1] + self.offset
        end = torch.full_like(last, self.end_id)
        return torch.cat([last, end], 1) if self.unfed else end

    def ids(self) -> Tensor:
        return torch.cat(self.chosen, 1)

    def probabilities(self) -> Tensor:
        return self.mask_tokenizer.decode(self.ids())
