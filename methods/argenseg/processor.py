"""ARGenSeg's samples and prompts: a mask is `<ge_start>`, n - 1 placeholders and `<ge_end>`; visual ids follow the text
vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np

from methods.argenseg import prompts
from methods.argenseg.config import MaskTokenizerConfig, Variant
from methods.argenseg.masks import preprocess_mask
from methods.argenseg.prefix import Prefix
from methods.argenseg.tokenizer_training import random_crop
from methods.base import Example, Request, TrainingSample, mask_of
from methods.images import open_image
from methods.internvl import prompts as shared
from methods.internvl.chat import Turn
from methods.internvl.config import BackboneSize, ProcessorConfig
from methods.internvl.processor import InternVLProcessor
from methods.internvl.vocabulary import token_id

PLACEHOLDER, START, END, CONTEXT = "<mask>", "<ge_start>", "<ge_end>", "<MASK_CONTEXT>"
FIRST_VISUAL = "<visual token 000000>"


class ARGenSegProcessor(InternVLProcessor):
    name = "ARGenSeg"

    def __init__(
        self, tokenizer: Any, size: BackboneSize, config: ProcessorConfig, masks: MaskTokenizerConfig, variant: Variant
    ):
        super().__init__(tokenizer, size, config)
        self.masks, self.variant = masks, variant
        self.prefix = Prefix()  # of training samples
        self.start_id, self.end_id = token_id(tokenizer, START), token_id(tokenizer, END)
        self.context_id = token_id(tokenizer, CONTEXT)
        # visual ids stand in no text; the official tokenizer has strings for them
        self.mask_token_offset = tokenizer.get_vocab().get(FIRST_VISUAL, len(tokenizer))

    @property
    def lengths(self) -> tuple[int, ...]:
        """Slots of each step."""
        if self.variant.head == "hidden":
            return (self.masks.scales[-1] ** 2,)
        return tuple(side * side for side in self.masks.scales)

    @property
    def prefixes(self) -> tuple[int, ...]:
        """Slots up to the end of each step."""
        return tuple(accumulate(self.lengths))

    @property
    def slots(self) -> int:
        return sum(self.lengths)

    @property
    def mask_block(self) -> list[int]:
        return [self.start_id, *([self.context_id] * (self.slots - 1)), self.end_id]

    def preprocess_mask(self, example: Example) -> np.ndarray:
        where = f"{example.dataset} sample {example.ref_id}"
        return preprocess_mask(mask_of(example), self.masks.resolution, self.masks.mask_resize, where)

    # ---- training -------------------------------------------------------------------------------------------

    def conversation(self, example: Example, task: str, size: tuple[int, int], rng: np.random.Generator) -> list[Turn]:
        if task != "segment":
            return super().conversation(example, task, size, rng)
        text = prompts.segment_request(example.expressions, self.variant.prompt_template, evaluation=False)
        answer = Turn("assistant", prompts.SEGMENT_ANSWER)
        return [Turn("user", shared.with_image(text, self.config.image_first)), answer]

    def prepare(self, example: Example, task: str, rng: np.random.Generator) -> TrainingSample:
        if task == "generate":
            return self._caption_sample(example, rng)
        sample = super().prepare(example, task, rng)
        return self.prefix.shortened(sample, self.start_id, self.prefixes, rng)

    def _caption_sample(self, example: Example, rng: np.random.Generator) -> TrainingSample:
        """A caption (`answer`, or what the expressions say) and the image to write, float32 [3, R, R] in 0..1."""
        caption = example.answer or ", ".join(example.expressions)
        self.chat.check([caption], f"{example.dataset} sample {example.ref_id}: the caption")
        caption = prompts.NO_PROMPT if rng.random() < prompts.UNPROMPTED else caption
        turns = [Turn("user", caption), Turn("assistant", prompts.GENERATE_ANSWER)]
        ids, labels = self.chat.encode(turns, 0, self.mask_block)
        pixels = np.asarray(random_crop(open_image(example.image), self.masks.resolution, rng), np.float32)
        return TrainingSample(ids, labels, masks=[pixels.transpose(2, 0, 1) / 255])

    def collate(self, samples: Sequence[TrainingSample], pack: bool = False) -> dict[str, Any]:
        """As for every method; masks are [M, 3, R, R] if some are coloured images."""
        if any(mask.ndim == 3 for sample in samples for mask in sample.masks):
            samples = [replace(s, masks=[np.broadcast_to(m, (3, *m.shape[-2:])) for m in s.masks]) for s in samples]
        batch = super().collate(samples, pack)
        if "masks" in batch and batch["masks"].ndim == 5:
            batch["masks"] = batch["masks"][:, 0]
        return batch

    # ---- answering ------------------------------------------------------------------------------------------

    def instructions(self, request: Request, past: Sequence[Turn] = ()) -> list[tuple[tuple[str, ...], str]]:
        """A mask and a box are two instructions: the model was taught to write one or the other."""
        self.refuse_more_than_words(request)
        asked = []
        if "mask" in request.want:
            text = prompts.segment_request(request.expressions, self.variant.prompt_template, evaluation=True)
            asked.append((("mask",), text))
        if "box" in request.want:
            phrase = shared.join_expressions(request.expressions)
            asked.append((("box",), shared.BOX_REQUESTS[0].format(phrase=phrase)))
        return asked

    def expected(self, request: Request, want: tuple[str, ...], past: Sequence[Turn] = ()) -> str | None:
        return prompts.SEGMENT_ANSWER if want == ("mask",) else None
