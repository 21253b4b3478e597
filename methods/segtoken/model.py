"""InternVL2.5 with a `[SEG]` token: cross-entropy on text, binary cross-entropy and Dice on masks.

Shapes: B rows, L tokens, D width, M masks, R side of the masks' grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from methods.base import Decoding
from methods.common.masks import mask_losses
from methods.internvl import checkpoint
from methods.internvl.backbone import Backbone
from methods.internvl.config import ProcessorConfig
from methods.internvl.generation.engine import Block
from methods.internvl.model import InternVLModel, changed, made
from methods.internvl.sam import load_sam
from methods.internvl.vocabulary import add_tokens
from methods.segtoken.config import UPSCALING, MaskDecoderConfig, ModelStage
from methods.segtoken.mask_decoder import MaskDecoder
from methods.segtoken.mask_grid import MaskGrid
from methods.segtoken.processor import SEG, SegTokenProcessor
from methods.segtoken.schedule import Prompted


class SegToken(InternVLModel):
    name: ClassVar[str] = "segtoken"
    stages: ClassVar[tuple[str, ...]] = ("joint",)

    def __init__(self, backbone: Backbone, tokenizer: Any, config: ProcessorConfig, decoder: MaskDecoderConfig):
        size = backbone.size
        grid = MaskGrid(UPSCALING * (size.image_size // size.patch_size))
        super().__init__(backbone, SegTokenProcessor(tokenizer, size, config, grid))
        self.mask_tokenizer = grid
        self.mask_decoder = MaskDecoder(decoder, size.text_width, size.vision_width)

    # ---- building, files ------------------------------------------------------------------------------------

    @classmethod
    def build(cls, config: Mapping[str, Any], corpus: Callable[[], Iterable[str]]) -> Self:
        """See config.ModelStage."""
        made(ModelStage, config)
        own = config.get("processor", {})
        if "start" in config:
            model = cls.from_pretrained(Path(config["start"]))
            model.processor.config = changed(model.processor.config, own)
            return model
        seed = int(config.get("seed", 0))
        torch.manual_seed(seed)
        backbone, tokenizer, processor = cls.start_from(config)
        known = len(tokenizer)
        add_tokens(tokenizer, [SEG])
        backbone.resize_vocabulary(len(tokenizer), seed, known)
        decoder = made(MaskDecoderConfig, config.get("mask_decoder", {}), "mask_decoder")
        model = cls(backbone, tokenizer, changed(processor, own), decoder)
        if "sam" in config:
            model.mask_decoder.start_from(load_sam(Path(config["sam"])).model)
        return model

    def config(self) -> dict[str, Any]:
        return checkpoint.describe(self) | {"mask_decoder": asdict(self.mask_decoder.config)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> Self:
        backbone, tokenizer = checkpoint.empty_backbone(config, folder)
        own = checkpoint.part(config, "processor", ProcessorConfig, folder)
        return cls(backbone, tokenizer, own, checkpoint.part(config, "mask_decoder", MaskDecoderConfig, folder))

    # ---- training -------------------------------------------------------------------------------------------

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        hidden, patches = self.hidden_states(batch)
        losses = {"text": self.token_losses(hidden, batch["labels"])[0].mean()}
        if "masks" not in batch:  # every batch uses the same modules, or ZeRO's processes would get stuck
            size = self.backbone.size
            blank = hidden.new_zeros(1, (size.image_size // size.patch_size) ** 2, size.vision_width)
            return {"text": losses["text"] + 0 * self.mask_decoder(hidden[:1, 0], blank).sum()}
        logits = self.mask_decoder(hidden[batch["ids"] == self.processor.start_id], patches[batch["whole_of"]])
        return losses | mask_losses(logits.float().flatten(1), batch["masks"].flatten(1))

    # ---- answering ------------------------------------------------------------------------------------------

    def block(self, tokens: int | None, decoding: Decoding) -> Block:
        return Block(self.processor.start_id, lambda: Prompted(self, []))

    def free_block(self, decoding: Decoding) -> Block:
        return self.block(None, decoding)

    def about(self, block: Block, patches: Sequence[Tensor]) -> Block:
        return replace(block, schedule=lambda: Prompted(self, patches))

    def block_ids(self, mask_ids: Sequence[int]) -> list[int]:
        return [self.processor.start_id]
