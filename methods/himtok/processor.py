"""HiMTok's samples and prompts: mask tokens are the last rows of the vocabulary, after their start and end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from methods.base import Example, Request, TrainingSample, UserError, mask_of
from methods.himtok import prompts
from methods.himtok.config import TASKS, MaskTokenizerConfig
from methods.himtok.mask_tokenizer import preprocess_mask
from methods.himtok.prompts import END, START, PromptTemplate, code_token
from methods.images import open_image
from methods.internvl import prompts as shared
from methods.internvl.chat import MASK, Turn
from methods.internvl.config import BackboneSize, ProcessorConfig
from methods.internvl.processor import InternVLProcessor
from methods.internvl.vocabulary import token_id


class HiMTokProcessor(InternVLProcessor):
    """`budget_in_prompt`: a requested number of mask tokens is also said in the prompt, for models that were trained on
    such requests."""

    name = "HiMTok"

    def __init__(
        self, tokenizer: Any, size: BackboneSize, config: ProcessorConfig, masks: MaskTokenizerConfig,
        template: PromptTemplate, budget_in_prompt: bool = False,
    ):  # fmt: skip
        super().__init__(tokenizer, size, config)
        self.masks, self.template, self.budget_in_prompt = masks, template, budget_in_prompt
        self.start_id, self.end_id = token_id(tokenizer, START), token_id(tokenizer, END)
        self.mask_token_offset = token_id(tokenizer, code_token(0))

    @property
    def mask_block(self) -> list[int]:
        return [self.start_id, *([self.mask_token_offset] * self.masks.latents), self.end_id]

    def preprocess_mask(self, example: Example) -> np.ndarray:
        where = f"{example.dataset} sample {example.ref_id}"
        return preprocess_mask(mask_of(example), self.masks.resolution, where)

    # ---- training -------------------------------------------------------------------------------------------

    def conversation(self, example: Example, task: str, size: tuple[int, int], rng: np.random.Generator) -> list[Turn]:
        if task not in prompts.TASKS:
            if task not in TASKS:
                raise UserError(f"There is no task called {task!r}; choose one of {', '.join(TASKS)}.")
            return super().conversation(example, task, size, rng)
        where = f"{example.dataset} sample {example.ref_id}: an option"
        self.chat.check(example.facts.get("options", ()), where)
        scale, tokens = self.config.box_scale, self.masks.latents
        return prompts.converse(example, task, self.template, size, scale, tokens, self._with_image, rng)

    def _with_image(self, text: str) -> str:
        return shared.with_image(text, self.config.image_first)

    def prepare(self, example: Example, task: str, rng: np.random.Generator) -> TrainingSample:
        sample = super().prepare(example, task, rng)
        while len(sample.masks) < sample.ids.count(self.start_id):  # blocks of a requested length are spelled out
            sample.masks.append(self.preprocess_mask(example))
        return sample

    # ---- answering ------------------------------------------------------------------------------------------

    def check_words(self, request: Request) -> None:
        """A protocol's question may spell out a mask's tokens."""
        options = replace(request.options, question=prompts.SPELLED.sub("", request.options.question))
        spelled = "text" in request.want  # the words of such a request are the question itself
        super().check_words(replace(request, expressions=() if spelled else request.expressions, options=options))

    def instructions(self, request: Request, past: Sequence[Turn] = ()) -> list[tuple[tuple[str, ...], str]]:
        """One; a mask that the request gives stands as `<mask>` in it."""
        family = prompts.family_of(request, self.budget_in_prompt, bool(past))
        if not request.expressions and prompts.SLOTS[family][0] & {"phrase", "options"}:
            raise UserError("A request has no expression; say what to segment.")
        listed = request.joined and self.template.source == "official"  # as the official evaluation does
        slots: dict[str, Any] = {"mask": MASK, "n": request.tokens} | prompts.phrases(request.expressions, listed)
        if family in ("choose", "choose_several"):
            slots["options"] = prompts.write_options(request.expressions, "The request")
        if request.box is not None or request.points:
            size = open_image(request.image).size
            slots["points"] = prompts.write_points(request.points, *size, self.config.box_scale)
            if request.box is not None:
                slots["box"] = shared.write_box(request.box, *size, self.config.box_scale)
        return [(request.want, self.template.request(family, **slots))]

    def expected(self, request: Request, want: tuple[str, ...], past: Sequence[Turn] = ()) -> str | None:
        family = prompts.family_of(request, self.budget_in_prompt, bool(past))
        text = self.template.families[family].answers[0].replace("{mask}", MASK)
        return text if MASK in text.partition("{")[0] else None

    def given_mask(self, request: Request) -> np.ndarray:
        """The request's own mask as the mask tokenizer is to see it, float32 [R, R] in 0..1."""
        view = preprocess_mask(request.mask, self.masks.resolution, "The mask of the request")
        size = open_image(request.image).size
        if request.mask.shape[::-1] != size:
            wrong = "x".join(map(str, request.mask.shape[::-1]))
            raise UserError(f"The mask of the request is {wrong} pixels, its image {size[0]}x{size[1]}; resize it.")
        return view
