"""Samples and prompts: a mask stands between `<quad>` and `</quad>`, which InternVL2.5's tokenizer has and its chat
does not use; so the vocabulary stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from methods.base import Example, Request, TrainingSample, mask_of
from methods.internvl import prompts as shared
from methods.internvl.chat import IGNORED, MASK, Turn
from methods.internvl.config import BackboneSize, ProcessorConfig
from methods.internvl.processor import InternVLProcessor
from methods.internvl.vocabulary import token_id
from methods.textmask.mask_tokenizer import SYMBOLS, TextMaskTokenizer
from methods.textmask.prompts import SEGMENT_REQUESTS

START, CLOSE = "<quad>", "</quad>"
PLACE = -1  # where the text of a sample's mask goes; no token has this id


class TextMaskProcessor(InternVLProcessor):
    name = "Masks as text"

    def __init__(self, tokenizer: Any, size: BackboneSize, config: ProcessorConfig, masks: TextMaskTokenizer):
        super().__init__(tokenizer, size, config)
        self.masks = masks
        self.start_id, self.end_id = token_id(tokenizer, START), token_id(tokenizer, CLOSE)
        self.symbol_ids = [*(token_id(tokenizer, each) for each in SYMBOLS[:-1]), self.end_id]
        self._tokens: int | None = None  # the budget of the sample that is being prepared

    @property
    def mask_block(self) -> list[int]:
        return [self.start_id, PLACE, self.end_id]

    def preprocess_mask(self, example: Example) -> np.ndarray:
        return self.masks.preprocess_mask(mask_of(example))

    # ---- training -------------------------------------------------------------------------------------------

    def conversation(self, example: Example, task: str, size: tuple[int, int], rng: np.random.Generator) -> list[Turn]:
        """Beside the shared tasks: "segment", and "segment_tokens", the same for a budget drawn among all."""
        self._tokens = int(rng.choice(self.masks.prefixes)) if task == "segment_tokens" else self.masks.length
        if not task.startswith("segment"):
            return super().conversation(example, task, size, rng)
        asked = shared.with_image(self._request(example.expressions, self._tokens), self.config.image_first)
        return [Turn("user", asked), Turn("assistant", MASK)]

    def prepare(self, example: Example, task: str, rng: np.random.Generator) -> TrainingSample:
        sample = super().prepare(example, task, rng)
        if sample.masks:
            fresh, pairs = self.spell(sample.masks[0]), list(zip(sample.ids, sample.labels, strict=True))
            sample.ids = [each for old, _ in pairs for each in (fresh if old == PLACE else [old])]
            sample.labels = [each for old, label in pairs for each in _labels(old, label, fresh)]
            sample.masks = []  # the text says all that is learned
        return sample

    def spell(self, mask: np.ndarray) -> list[int]:
        """A soft mask [R, R] -> the ids of its text, without its end."""
        text = self.masks.notation(self._tokens).write(mask)
        return [self.symbol_ids[each] for each in self.masks.ids(text, len(text))]

    def _request(self, expressions: tuple[str, ...], tokens: int | None) -> str:
        self.masks.notation(tokens)
        budget = self.masks.budgets[tokens or self.masks.length]
        phrase = shared.join_expressions(expressions)
        return SEGMENT_REQUESTS[self.masks.config.NAME].format(phrase=phrase, budget=budget)

    # ---- answering ------------------------------------------------------------------------------------------

    def instructions(self, request: Request, past: Sequence[Turn] = ()) -> list[tuple[tuple[str, ...], str]]:
        """A mask and a box are two instructions."""
        self.refuse_more_than_words(request)
        asked = []
        if "mask" in request.want:
            asked.append((("mask",), self._request(request.expressions, request.tokens)))
        if "box" in request.want:
            phrase = shared.join_expressions(request.expressions)
            asked.append((("box",), shared.BOX_REQUESTS[0].format(phrase=phrase)))
        return asked

    def expected(self, request: Request, want: tuple[str, ...], past: Sequence[Turn] = ()) -> str | None:
        return MASK if want == ("mask",) else None


def _labels(old: int, label: int, fresh: list[int]) -> list[int]:
    """The labels of what stands in the place of an old id; a mask in a user's turn is not learned."""
    if old != PLACE:
        return [label]
    return [IGNORED] * len(fresh) if label == IGNORED else fresh
