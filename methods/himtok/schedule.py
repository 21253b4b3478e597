"""HiMTok's decoding: one mask token per step, each fed as its own embedding."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.himtok.tokenizer import MaskTokenizer
from methods.internvl.model import Backbone


class TokenByToken:
    """methods.base.Schedule for one block of `tokens` mask tokens.

    The mask is decoded from the greedy path's token probabilities (softmax at `temperature` over the codes), which
    is what the detokenizer was tuned on; `soft=False` decodes the chosen ids instead.
    """

    def __init__(
        self, backbone: Backbone, codec: MaskTokenizer, low: int, start_id: int, end_id: int, tokens: int,
        temperature: float, soft: bool,
    ):  # fmt: skip
        self.backbone, self.codec = backbone, codec
        self.vocabulary = (low, low + codec.size)
        self.start_id, self.end_id, self.tokens = start_id, end_id, tokens
        self.temperature, self.soft = temperature, soft
        self.logits: list[Tensor] = []
        self.chosen: list[Tensor] = []

    def first(self, batch: int) -> Tensor:
        ids = torch.full((batch, 1), self.start_id, device=self.codec.latent_tokens.device)
        return self.backbone.embed(ids)

    def next(self, logits: Tensor) -> Tensor | None:
        self.logits.append(logits)
        self.chosen.append(logits.argmax(-1))
        if len(self.chosen) == self.tokens:
            return None
        return self.backbone.embed(self.chosen[-1] + self.vocabulary[0])

    def tail(self) -> Tensor:
        """The last mask token, which no step has fed yet, and the end token."""
        last = self.chosen[-1] + self.vocabulary[0]
        return torch.cat([last, torch.full_like(last, self.end_id)], 1)

    def ids(self) -> Tensor:
        return torch.cat(self.chosen, 1)

    def probabilities(self) -> Tensor:
        if not self.soft:
            return self.codec.decode(self.ids())
        logits = torch.cat(self.logits, 1).float()
        return self.codec.decode_soft((logits / self.temperature).softmax(-1))
