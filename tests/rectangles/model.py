"""InternVL2.5 that writes a mask as four tokens: the corners x1, y1, x2, y2 of the rectangle around it."""

import numpy as np
import torch
from torch import Tensor, nn

from methods.base import mask_of
from methods.common.masks import bilinear_mask
from methods.internvl import checkpoint, prompts
from methods.internvl.chat import MASK, Turn
from methods.internvl.config import ProcessorConfig
from methods.internvl.generation.engine import Block
from methods.internvl.generation.one_by_one import OneByOne
from methods.internvl.model import InternVLModel, made
from methods.internvl.processor import InternVLProcessor
from methods.internvl.vocabulary import add_tokens, token_id
from rectangles.spec import ModelStage

START, END, REQUEST = "<rectangle>", "</rectangle>", "Mark <ref>{}</ref> with a rectangle."


class RectangleTokenizer(nn.Module):  # methods.base.MaskTokenizer, without weights; R side of the grid
    length, prefixes = 4, (4,)

    def __init__(self, side: int):
        super().__init__()
        self.resolution, self.size = side, side + 1

    def preprocess_mask(self, mask: np.ndarray) -> np.ndarray:
        return bilinear_mask(torch.from_numpy(mask).float(), (self.resolution, self.resolution)).astype(np.float32)

    def encode(self, masks: Tensor, tokens: int | None = None) -> Tensor:
        seen, ends = masks[:, 0] > 0.5, []
        for line in (seen.any(1), seen.any(2)):  # columns, then rows, in which there is something
            first, last = line.int().argmax(1), self.resolution - line.flip(1).int().argmax(1)
            ends.append((first, torch.where(line.any(1), last, first)))
        return torch.stack([ends[0][0], ends[1][0], ends[0][1], ends[1][1]], 1)

    def decode(self, ids: Tensor) -> Tensor:
        place, (x1, y1, x2, y2) = torch.arange(self.resolution, device=ids.device), ids.T[:, :, None]
        return (((place >= y1) & (place < y2))[:, :, None] & ((place >= x1) & (place < x2))[:, None]).float()

    def decode_soft(self, probabilities: Tensor) -> Tensor:
        return self.decode(probabilities.argmax(-1))

    def postprocess_mask(self, probabilities: Tensor, size: tuple[int, int], mask_resize: str = "") -> np.ndarray:
        return bilinear_mask(probabilities, size)


class RectangleProcessor(InternVLProcessor):
    name = "Rectangles"

    def conversation(self, example, task, size, rng):
        grid = torch.from_numpy(self.masks.preprocess_mask(mask_of(example)))
        written = "".join(f"<edge_{i}>" for i in self.masks.encode(grid[None, None])[0].tolist())
        request = REQUEST.format(prompts.join_expressions(example.expressions))
        asked = prompts.with_image(request, self.config.image_first)
        return [Turn("user", asked), Turn("assistant", START + written + END)]

    def instructions(self, request, past=()):
        self.refuse_more_than_words(request)
        return [(("mask",), REQUEST.format(prompts.join_expressions(request.expressions)))]

    def expected(self, request, want, past=()):
        return MASK


class Rectangles(InternVLModel):
    name, stages = "rectangles", ("joint",)

    def __init__(self, backbone, tokenizer, config: ProcessorConfig, side: int):
        super().__init__(backbone, RectangleProcessor(tokenizer, backbone.size, config))
        self.mask_tokenizer = self.processor.masks = RectangleTokenizer(side)
        self.start, self.end, self.low = (token_id(tokenizer, text) for text in (START, END, "<edge_0>"))

    @classmethod
    def build(cls, config, corpus):
        stage, start = made(ModelStage, config), cls.start_from(config)
        known = len(start.tokenizer)
        add_tokens(start.tokenizer, [START, END, *(f"<edge_{i}>" for i in range(stage.side + 1))])
        start.backbone.resize_vocabulary(len(start.tokenizer), stage.seed, known)
        return cls(*start, stage.side)

    def config(self):
        return super().config() | {"side": self.mask_tokenizer.resolution}

    @classmethod
    def from_config(cls, config, folder):
        processor = checkpoint.part(config, "processor", ProcessorConfig, folder)
        return cls(*checkpoint.empty_backbone(config, folder), processor, config["side"])

    @property
    def text_rows(self) -> int:
        return self.low

    def block(self, tokens, decoding) -> Block:
        return Block(self.start, lambda: OneByOne(self.backbone, self.mask_tokenizer, self.start, self.low, self.end))
