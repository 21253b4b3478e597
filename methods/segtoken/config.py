"""What a profile may say of a model whose masks a hidden state prompts. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from methods.base import UserError
from methods.files import setting
from methods.internvl.config import ContinuedStage, ProcessorConfig

DOWNSAMPLING = 2  # of the width within the decoder's attention to the image, in SAM's decoder
UPSCALING = 4  # of the patches' grid in the decoder's output


@dataclass(frozen=True)
class MaskDecoderConfig:
    """SAM's mask decoder; the defaults are SAM's own sizes. width, mlp: features of a token and inside of
    a block. image: what the decoder sees of the image, its "patches" or "zeros" in their place."""

    width: int = setting(256, 8, 4096)
    layers: int = setting(2, 1, 64)
    heads: int = setting(8, 1, 64)
    mlp: int = setting(2048, 1, 2**16)
    image: str = setting("patches", choices=("patches", "zeros"))

    def __post_init__(self) -> None:
        divisor = max(8, DOWNSAMPLING * self.heads)
        if self.width % 8 or self.width % (DOWNSAMPLING * self.heads):
            raise UserError(f"The mask decoder's width is {self.width}, which {divisor} and 8 must divide; correct it.")


@dataclass
class ModelStage(ContinuedStage):
    """`start`; or `backbone` (folder of an InternVL model, or random:SIZE with `vocabulary` and `texts`),
    `mask_decoder` and perhaps `sam`, a file or folder of a SAM (see methods/internvl/sam.py) whose mask decoder is
    where ours starts, of the same sizes. With both the processor's choices."""

    NEW: ClassVar[tuple[str, ...]] = ("backbone", "vocabulary", "texts", "mask_decoder", "sam")
    backbone: str = ""
    vocabulary: int = 0
    texts: list[str] = field(default_factory=list)
    processor: ProcessorConfig = field(default_factory=ProcessorConfig)
    mask_decoder: MaskDecoderConfig = field(default_factory=MaskDecoderConfig)
    sam: str = ""
