"""Samples and prompts: a mask is the one token `[SEG]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from methods.base import Example, Request, TrainingSample, mask_of
from methods.internvl import prompts as shared
from methods.internvl.chat import MASK, Turn
from methods.internvl.config import BackboneSize, ProcessorConfig
from methods.internvl.processor import InternVLProcessor
from methods.internvl.vocabulary import token_id
from methods.segtoken.mask_grid import MaskGrid
from methods.segtoken.prompts import SEGMENT_REQUEST

SEG = "[SEG]"


class SegTokenProcessor(InternVLProcessor):
    name = "A [SEG] token"

    def __init__(self, tokenizer: Any, size: BackboneSize, config: ProcessorConfig, grid: MaskGrid):
        super().__init__(tokenizer, size, config)
        self.grid, self.start_id = grid, token_id(tokenizer, SEG)

    @property
    def mask_block(self) -> list[int]:
        return [self.start_id]

    def preprocess_mask(self, example: Example) -> np.ndarray:
        return self.grid.preprocess_mask(mask_of(example))

    def conversation(self, example: Example, task: str, size: tuple[int, int], rng: np.random.Generator) -> list[Turn]:
        """Beside the shared tasks: "segment"."""
        if task != "segment":
            return super().conversation(example, task, size, rng)
        asked = shared.with_image(self._request(example.expressions), self.config.image_first)
        return [Turn("user", asked), Turn("assistant", MASK)]

    def collate(self, samples: Sequence[TrainingSample], pack: bool = False) -> dict[str, Any]:
        """As for every method, with the tile `whole_of` [M] that shows the whole image of each mask: its last."""
        batch = super().collate(samples, pack)
        if "masks" in batch:
            ends = np.cumsum([0 if sample.image is None else len(sample.image) for sample in samples])
            last = np.repeat(ends - 1, [len(sample.masks) for sample in samples])
            batch["whole_of"] = batch["tile_of"][torch.from_numpy(last)]
        return batch

    def _request(self, expressions: tuple[str, ...]) -> str:
        return SEGMENT_REQUEST.format(phrase=shared.join_expressions(expressions))

    def instructions(self, request: Request, past: Sequence[Turn] = ()) -> list[tuple[tuple[str, ...], str]]:
        """A mask and a box are two instructions."""
        self.refuse_more_than_words(request)
        phrase = shared.join_expressions(request.expressions)
        texts = {"mask": self._request(request.expressions), "box": shared.BOX_REQUESTS[0].format(phrase=phrase)}
        return [((want,), text) for want, text in texts.items() if want in request.want]

    def expected(self, request: Request, want: tuple[str, ...], past: Sequence[Turn] = ()) -> str | None:
        return MASK if want == ("mask",) else None
