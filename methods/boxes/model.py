"""InternVL2.5 that answers with boxes: the common start of all methods, and in tables the row that tells what a mask is
worth beyond a filled box.

Stage "pretrain" trains everything on boxes, captions and questions with two auxiliary losses (PretrainingHeads).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from methods.base import USUAL_OPTIONS, Example, Prediction, RequestOptions, TrainingSample, UserError
from methods.boxes.config import ModelConfig
from methods.boxes.pretraining import PretrainingHeads, patch_targets
from methods.internvl import checkpoint
from methods.internvl.backbone import Backbone
from methods.internvl.config import ProcessorConfig, named_size
from methods.internvl.generation.engine import Answer
from methods.internvl.model import InternVLModel, changed, made
from methods.internvl.processor import InternVLProcessor
from methods.internvl.vocabulary import train_tokenizer


class BoxesProcessor(InternVLProcessor):
    name = "boxes"
    pretraining = False  # whether samples carry the targets of PretrainingHeads

    def prepare(self, example: Example, task: str, rng: np.random.Generator) -> TrainingSample:
        sample = super().prepare(example, task, rng)
        if self.pretraining:
            sample.extras = patch_targets(example, self.size)
        return sample


class BoxesModel(InternVLModel):
    name: ClassVar[str] = checkpoint.BACKBONE_ALONE
    stages: ClassVar[tuple[str, ...]] = ("pretrain",)

    @classmethod
    def build(cls, config: Mapping[str, Any], corpus: Callable[[], Iterable[str]]) -> Self:
        """See config.ModelConfig."""
        made(ModelConfig, config)
        if "backbone" in config:
            start = cls.start_from(config)
            own = changed(start.config, config.get("processor", {}))
            return cls(start.backbone, BoxesProcessor(start.tokenizer, start.backbone.size, own))
        size, seed = named_size(config.get("size", "nano")), int(config.get("seed", 0))
        tokenizer = train_tokenizer(corpus(), int(config.get("vocabulary", 1024)))
        torch.manual_seed(seed)
        backbone = Backbone(size, len(tokenizer), checkpoint.image_token_id(tokenizer))
        backbone.initialise_from_scratch(seed)
        own = ProcessorConfig(bool(config.get("image_first", True)), str(config.get("system", "")), size.max_tiles)
        return cls(backbone, BoxesProcessor(tokenizer, size, own))

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> Self:
        backbone, tokenizer = checkpoint.empty_backbone(config, folder)
        own = checkpoint.part(config, "processor", ProcessorConfig, folder)
        return cls(backbone, BoxesProcessor(tokenizer, backbone.size, own))

    def enter_stage(self, stage: str) -> None:
        super().enter_stage(stage)
        if self.processor.config.max_tiles > 1:
            raise UserError("Stage pretrain reads one tile for each image; set model.processor.max_tiles to 1.")
        self.heads = self.heads or PretrainingHeads(self.backbone.size)
        self.processor.pretraining = True

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        hidden, patches = self.hidden_states(batch)
        losses = {"text": self.token_losses(hidden, batch["labels"])[0].mean()}
        if self.heads is not None:
            image_tokens = hidden[batch["ids"] == self.backbone.image_token_id]
            grids = image_tokens.reshape(-1, self.backbone.size.tokens_per_tile, hidden.shape[-1])
            for name, loss in self.heads(grids, patches, batch).items():
                into = "text" if name.startswith("idle_") else name
                losses[into] = losses[into] + loss if into in losses else loss
        return losses

    def read_mask(self, answer: Answer, prediction: Prediction, options: RequestOptions = USUAL_OPTIONS) -> list[str]:
        """The filled box."""
        if prediction.box is not None:
            x1, y1, x2, y2 = (round(value) for value in prediction.box)
            prediction.mask[y1:y2, x1:x2] = True
        return []
