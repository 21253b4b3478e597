"""InternVL2.5 that writes masks as text: no new token, no weights beside the backbone's, cross-entropy alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from methods.base import USUAL_OPTIONS, Decoding, Prediction, RequestOptions
from methods.internvl import checkpoint
from methods.internvl.backbone import Backbone
from methods.internvl.config import ProcessorConfig
from methods.internvl.generation.engine import Answer, Block
from methods.internvl.model import InternVLModel, changed, made
from methods.textmask.config import ModelStage, PolygonConfig, PolygonStage, RowsConfig, RowsStage
from methods.textmask.mask_tokenizer import TextMaskTokenizer
from methods.textmask.processor import CLOSE, START, TextMaskProcessor
from methods.textmask.schedule import Spelled


class TextMask(InternVLModel):
    """What both notations share. NOTATION: the kind of their mask tokenizer's configuration; STAGE: of a stage's."""

    NOTATION: ClassVar[type[PolygonConfig] | type[RowsConfig]]
    STAGE: ClassVar[type[ModelStage]]
    stages: ClassVar[tuple[str, ...]] = ("joint",)

    def __init__(self, backbone: Backbone, tokenizer: Any, config: ProcessorConfig, masks: PolygonConfig | RowsConfig):
        mask_tokenizer = TextMaskTokenizer(masks)
        super().__init__(backbone, TextMaskProcessor(tokenizer, backbone.size, config, mask_tokenizer))
        self.mask_tokenizer = mask_tokenizer

    # ---- building, files ------------------------------------------------------------------------------------

    @classmethod
    def build(cls, config: Mapping[str, Any], corpus: Callable[[], Iterable[str]]) -> Self:
        """See config.ModelStage."""
        made(cls.STAGE, config)
        own = config.get("processor", {})
        if "start" in config:
            model = cls.from_pretrained(Path(config["start"]))
            model.processor.config = changed(model.processor.config, own)
            return model
        backbone, tokenizer, processor = cls.start_from(config)
        masks = made(cls.NOTATION, config.get("mask_tokenizer_config", {}), "mask_tokenizer_config")
        return cls(backbone, tokenizer, changed(processor, own), masks)

    def config(self) -> dict[str, Any]:
        return checkpoint.describe(self) | {"mask_tokenizer": asdict(self.mask_tokenizer.config)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> Self:
        backbone, tokenizer = checkpoint.empty_backbone(config, folder)
        own = checkpoint.part(config, "processor", ProcessorConfig, folder)
        return cls(backbone, tokenizer, own, checkpoint.part(config, "mask_tokenizer", cls.NOTATION, folder))

    # ---- answering ------------------------------------------------------------------------------------------

    def block(self, tokens: int | None, decoding: Decoding) -> Block:
        symbols = torch.tensor(self.processor.symbol_ids, device=self.device)
        start = self.processor.start_id
        text = self.mask_tokenizer.disc(tokens) if decoding.answer_text == "forced" else ""
        return Block(start, lambda: Spelled(self.backbone, self.mask_tokenizer, start, symbols, tokens, text))

    def block_ids(self, mask_ids: Sequence[int]) -> list[int]:
        text = self.mask_tokenizer.text(list(mask_ids))
        spelled = [self.processor.symbol_ids[each] for each in self.mask_tokenizer.ids(text, len(text))]
        return [self.processor.start_id, *spelled, self.processor.end_id]

    def read_mask(self, answer: Answer, prediction: Prediction, options: RequestOptions = USUAL_OPTIONS) -> list[str]:
        """As for every method, and why the first text that was written is no mask."""
        if answer.masks:
            text, notation = self.mask_tokenizer.text(answer.mask_ids[0]), len(answer.mask_ids[0])
        else:  # an answer that was not constrained
            text, notation = self._found(answer), None
        if text is None:
            return ["no mask in the answer"]
        soft, fault = self.mask_tokenizer.read(text, self.mask_tokenizer.notation(notation))
        if not answer.masks:
            answer = Answer(masks=[torch.from_numpy(soft)], mask_ids=[[]])
        super().read_mask(answer, prediction, options)
        ids = self.mask_tokenizer.ids(text, len(text)) if answer.mask_ids[0] else []
        prediction.token_ids = tuple(ids)
        return [f"the text is no mask: {fault}"] if fault else []

    def _found(self, answer: Answer) -> str | None:
        """What stands between the first `<quad>` and the `</quad>` behind it, or the answer's end."""
        _, start, rest = self.processor.answer_text(answer.text_ids).partition(START)
        return rest.partition(CLOSE)[0] if start else None


class PolygonModel(TextMask):
    name, NOTATION, STAGE = "textpolygon", PolygonConfig, PolygonStage


class RowsModel(TextMask):
    name, NOTATION, STAGE = "textrows", RowsConfig, RowsStage
