"""HiMTok's decoding: one mask token per step, each fed as its own embedding, and when to stop."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.base import UserError
from methods.common.masks import mask_iou
from methods.himtok.config import AdaptiveLength
from methods.himtok.mask_tokenizer import MaskTokenizer
from methods.internvl.backbone import Backbone
from methods.internvl.generation.one_by_one import OneByOne


class TokenByToken(OneByOne):
    """Blocks of at most `tokens` mask tokens.

    The mask is decoded from the greedy path's token probabilities (softmax at `temperature` over the codes), which
    is what the detokenizer was tuned on; `soft=False` decodes the chosen ids instead. `expected` also feeds the
    expected embedding under those probabilities in place of the likeliest token's. A rule that looks at the mask or the
    end token needs a batch of one row, because the rows of a batch move together.
    """

    def __init__(
        self, backbone: Backbone, mask_tokenizer: MaskTokenizer, start_id: int, offset: int, end_id: int, tokens: int,
        temperature: float, soft: bool, length: AdaptiveLength | None = None, expected: bool = False,
    ):  # fmt: skip
        super().__init__(backbone, mask_tokenizer, start_id, offset, end_id, tokens)
        self.temperature, self.soft, self.length = temperature, soft, length or AdaptiveLength()
        if self.length.rule == "end_token" and end_id != offset - 1:
            raise UserError("The end token does not stand before the mask tokens; use another rule.")
        self.expected = expected
        self.logits: list[Tensor] = []
        self.before: Tensor | None = None  # the mask at the last prefix looked at

    @property
    def vocabulary(self) -> tuple[int, int]:
        """The codes, and the end token before them if the model may choose it."""
        return self.offset - (self.length.rule == "end_token"), self.offset + self.mask_tokenizer.size

    def next(self, logits: Tensor) -> Tensor | None:
        if self.length.rule != "full" and len(logits) > 1:
            raise ValueError("A length of its own needs a batch of one row.")
        self.unfed = False
        if self.length.rule == "end_token":
            end, logits = logits[..., :1], logits[..., 1:]
            if self.chosen and bool((end > logits.amax(-1, keepdim=True)).all()):
                return None
        self.logits.append(logits)
        self.chosen.append(logits.argmax(-1))
        self.unfed = len(self.chosen) == self.tokens or self._converged()
        return None if self.unfed else self._fed()

    def _fed(self) -> Tensor:
        """Embeddings [B, 1, D] of the last token for the next step."""
        if not self.expected:
            return self.backbone.embed(self.chosen[-1] + self.offset)
        size = self.mask_tokenizer.size
        table = self.backbone.embed(torch.arange(self.offset, self.offset + size, device=self.chosen[-1].device))
        return (self.logits[-1].float() / self.temperature).softmax(-1).to(table.dtype) @ table

    def _converged(self) -> bool:
        if self.length.rule != "early_exit" or len(self.chosen) % self.length.every:
            return False
        before, self.before = self.before, self.probabilities() > 0.5
        return before is not None and bool((1 - mask_iou(before, self.before) <= self.length.threshold).all())

    def probabilities(self) -> Tensor:
        if not self.soft:
            return super().probabilities()
        logits = torch.cat(self.logits, 1).float()
        return self.mask_tokenizer.decode_soft((logits / self.temperature).softmax(-1))
