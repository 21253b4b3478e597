"""Decoding: one character per step, chosen among those that the notation allows there."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.internvl.backbone import Backbone
from methods.textmask.mask_tokenizer import SYMBOLS, TextMaskTokenizer
from methods.textmask.numbers import END


class Spelled:
    """methods.base.Schedule. `symbol_ids` int64 [V] are the mask vocabulary's rows in the language model's, that of the
    end last.

    All tokens are looked at, so that it is known how often the likeliest one was not allowed. Which are allowed depends
    on what each row has written, so that the host waits for every token. forced: what is written, with its end,
    whatever the model would write; for timing models that were never trained, whose texts have any length.
    """

    def __init__(
        self, backbone: Backbone, mask_tokenizer: TextMaskTokenizer, start_id: int, symbol_ids: Tensor,
        tokens: int | None = None, forced: str = "",
    ):  # fmt: skip
        self.backbone, self.mask_tokenizer = backbone, mask_tokenizer
        self.start_id, self.symbol_ids = start_id, symbol_ids
        self.notation, self.forced = mask_tokenizer.notation(tokens), forced
        self.vocabulary = (0, backbone.vocabulary)
        self.texts: list[str] = []
        self.corrections: list[int] = []
        self.unfinished: Tensor | None = None

    def first(self, batch: int) -> Tensor:
        self.texts, self.corrections = [""] * batch, [0] * batch
        return self._embed([[self.start_id]] * batch)

    def next(self, logits: Tensor) -> Tensor | None:
        logits = logits[:, 0].float()
        allowed = torch.tensor([self._allowed(text) for text in self.texts], device=logits.device)
        symbols = logits[:, self.symbol_ids].masked_fill(~allowed, -torch.inf).argmax(-1)
        if self.forced:
            symbols = torch.full_like(symbols, SYMBOLS.index(self.forced[len(self.texts[0])]))
        fed = self.symbol_ids[symbols]
        for row, (symbol, same) in enumerate(zip(symbols.tolist(), (fed == logits.argmax(-1)).tolist(), strict=True)):
            if not self._ended(row):
                self.corrections[row] += not same
                self.texts[row] += SYMBOLS[symbol]
        going = [not self._ended(row) for row in range(len(self.texts))]
        self.unfinished = None if all(going) else torch.tensor(going, device=logits.device)
        return self.backbone.embed(fed[:, None]) if any(going) else None

    def _allowed(self, text: str) -> list[bool]:
        following = END if text.endswith(END) else self.notation.allowed(text)
        return [symbol in following for symbol in SYMBOLS]

    def _ended(self, row: int) -> bool:
        return self.texts[row].endswith(END)

    def _embed(self, ids: list[list[int]]) -> Tensor:
        return self.backbone.embed(torch.tensor(ids, device=self.symbol_ids.device))

    def tail(self) -> Tensor:
        return self.symbol_ids[-1:].repeat(len(self.texts), 1)

    def ids(self) -> Tensor:
        rows = [self.mask_tokenizer.ids(text, self.notation.length) for text in self.texts]
        return torch.tensor(rows, device=self.symbol_ids.device)

    def probabilities(self) -> Tensor:
        return self.mask_tokenizer.decode(self.ids())
