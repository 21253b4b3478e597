"""Timing of real architectures with random weights: the time of an answer does not depend on the weights' values.

The text of the answers is forced, because a model that was never trained would not write it; it costs what it would
cost (the official backend still generates it token by token).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.config import LatencyConfig, UntrainedConfig
from bench.records import describe
from methods.base import Decoding, Model, Request
from methods.files import file_name
from methods.precision import made_in
from methods.registry import method_class

ANSWER_TEXT = "forced"  # see Decoding
PHRASES = (
    "the red car on the left", "a person in a blue shirt", "the small dog behind it", "the second cup from the right",
    "the tallest building", "the woman who holds an umbrella", "the bus", "the plate with two slices of pizza on it",
)  # fmt: skip
WORDS = (
    *PHRASES, "Segment the object.", "The mask: ", "Sure, the segmentation result: ",
    "Given the following instructions: ; please perform referring segmentation on this image.",
)  # fmt: skip
TILE = 448  # side in pixels; a square image of n x n tiles gets a thumbnail, if n is more than 1


@dataclass(frozen=True)
class Case:
    """One architecture, one number of tiles and of mask tokens (None: all)."""

    size: str
    name: str
    tiles: int
    tokens: int | None

    @property
    def variant(self) -> dict[str, Any]:
        """As records have it, beside `tokens`."""
        return {"model": self.name, "backbone": self.size, "tiles": self.tiles}

    @property
    def label(self) -> str:
        return describe(self.variant, self.tokens)

    @property
    def slug(self) -> str:
        """The case as a file's name."""
        return file_name(self.size, self.name, str(self.tiles), *([str(self.tokens)] if self.tokens else []))


def cases(config: LatencyConfig) -> list[Case]:
    """All that a profile times, small models first; cases of one model stand together."""
    return [
        Case(size, name, tiles, tokens)
        for size in config.sizes
        for name, model in config.untrained.items()
        if not model.sizes or size in model.sizes
        for tiles in model.tiles or config.tiles
        for tokens in model.tokens or [None]
    ]


def requests_of(case: Case, count: int) -> list[Request]:
    """Noise images of the case's number of tiles (1, 5 or 10, which the profile's check sees to), and plain
    expressions."""
    side = TILE * round((case.tiles - (case.tiles > 1)) ** 0.5)
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (side, side, 3), np.uint8)) for _ in range(min(count, 8))]
    return [Request(images[i % len(images)], (PHRASES[i % len(PHRASES)],), tokens=case.tokens) for i in range(count)]


def build(config: UntrainedConfig, size: str, device: torch.device, precision: torch.dtype) -> Model:
    """A method on a backbone of a named size, made on the device and in the precision, so that no larger copy of it
    ever exists. The mask tokenizer stays in float32, as its ids need, and is run in the precision."""
    model: dict[str, Any] = dict(config.model) | {"backbone": f"random:{size}", "texts": WORDS * 20}
    with device, made_in(precision), torch.no_grad():
        method: Any = method_class(config.method).build(model, lambda: ())
        for parameter in method.parameters():  # many start as zeros or as copies of each other, which ties choices
            if parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
    if method.mask_tokenizer is not None:
        method.mask_tokenizer.float()
    return method.to(device).eval()


def reads(method: Any, tiles: int) -> bool:
    """Whether an image of so many tiles reaches the method whole."""
    return tiles == 1 or tiles - 1 <= method.processor.config.max_tiles > 1


def same_answers(method: Model, requests: Sequence[Request], backends: Sequence[str]) -> float:
    """Share of requests whose mask tokens are the same with every decode backend."""
    found = [
        [method.segment([request], Decoding(backend, ANSWER_TEXT))[0].token_ids for request in requests]
        for backend in backends
    ]
    return float(np.mean([len(set(each)) == 1 for each in zip(*found, strict=True)]))
