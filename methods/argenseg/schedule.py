"""ARGenSeg's ways of writing an image, all methods.base.Schedule: whole scales, single tokens, guided, or hidden.

Shapes: B rows, n slots of a step, V visual tokens, C code width, G side of the feature map, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from methods.base import DEFAULT, Decoding

if TYPE_CHECKING:
    from methods.argenseg.model import ARGenSeg


class ScaleByScale:
    """The first `scales` scales of an image, one per step, fed with the sum of all earlier ones.

    Scale 1 is predicted from the start token itself.
    """

    unfinished = corrections = None

    def __init__(self, model: ARGenSeg, scales: int, decoding: Decoding = DEFAULT):
        self.model = model
        self.decoding = decoding
        self.scales = scales
        self.quantizer = model.mask_tokenizer.quantize
        self.vocabulary = (model.processor.mask_token_offset, model.processor.mask_token_offset + model.visual_rows)
        self.features: Tensor | float = 0.0
        self.sums: list[Tensor] = []  # the features after each scale, where all of them are decoded
        self.chosen: list[Tensor] = []

    def first(self, batch: int) -> Tensor:
        start = torch.full((batch, 1), self.model.processor.start_id, device=self.model.device)
        return self.model.backbone.embed(start)

    def next(self, logits: Tensor) -> Tensor | None:
        ids = self.choose(logits)
        cells = self.advance(ids, self.vectors(ids, logits))
        if cells is None:
            return None
        return self.model.slot_inputs(cells, sum(self.quantizer.lengths[: len(self.chosen)]))

    def choose(self, logits: Tensor) -> Tensor:
        """Logits [B, n, V] -> ids [B, n]."""
        return logits.float().argmax(-1)

    def vectors(self, ids: Tensor, logits: Tensor) -> Tensor:
        """The code vectors [B, n, C] that the image gets: those of ids [B, n], or the expected ones."""
        codes = self.quantizer.embedding
        if self.decoding.rule != "expected":
            return codes(ids)
        return (logits.float() / self.decoding.temperature).softmax(-1) @ codes.weight.float()

    def advance(self, ids: Tensor, vectors: Tensor) -> Tensor | None:
        """Add a finished scale's vectors to the image -> the cells [B, s^2, C] that feed the next, or None."""
        k = len(self.chosen)
        self.chosen.append(ids)
        self.features = self.features + self.quantizer.contribution(vectors, k)
        if self.decoding.backend == "official":  # it decodes the image after every scale and keeps the last
            self.sums.append(self.features)
        return None if k + 1 == self.scales else self.quantizer.shrink(self.features, k + 1)

    def tail(self) -> Tensor:
        return torch.full((len(self.features), 1), self.model.processor.end_id, device=self.model.device)

    def ids(self) -> Tensor:
        return torch.cat(self.chosen, 1)

    def probabilities(self) -> Tensor:
        """Grey images [B, R, R], or in colours [B, 3, R, R] for the official resize, which needs the channels."""
        tokenizer = self.model.mask_tokenizer
        decode = tokenizer.grey if tokenizer.config.mask_resize == "bilinear" else tokenizer.colours
        for earlier in self.sums[:-1]:
            decode(earlier)
        return decode(self.features)


class TokenByToken(ScaleByScale):
    """The same image, one token per step. A tokenizer of one scale is fed with the code of the token before."""

    def __init__(self, model: ARGenSeg, scales: int, decoding: Decoding = DEFAULT):
        super().__init__(model, scales, decoding)
        self.partial: list[Tensor] = []  # ids of the unfinished scale
        self.expected: list[Tensor] = []  # and their vectors
        self.cells: Tensor | None = None  # what feeds that scale

    def next(self, logits: Tensor) -> Tensor | None:
        self.partial.append(self.choose(logits))
        self.expected.append(self.vectors(self.partial[-1], logits))
        k, done = len(self.chosen), len(self.partial)
        slot = sum(self.quantizer.lengths[:k]) + done
        if done < self.quantizer.lengths[k]:
            single = self.cells is None
            cell = self.expected[-1] if single else self.cells[:, done : done + 1]
            return self.model.slot_inputs(cell, slot)
        self.cells = self.advance(torch.cat(self.partial, 1), torch.cat(self.expected, 1))
        self.partial, self.expected = [], []
        return None if self.cells is None else self.model.slot_inputs(self.cells[:, :1], slot)


class Guided(ScaleByScale):
    """Classifier-free guidance: the first half of the rows has the prompt, the second half an empty one.

    Logits are (1 + t) * prompted - t * empty, t rising linearly from 0 at the first scale to `guidance` at the last;
    both halves are fed the same choice. With a generator tokens are sampled from what `keep_likely` keeps.
    """

    def __init__(
        self, model: ARGenSeg, guidance: float, top_k: int = 0, top_p: float = 0.0,
        generator: torch.Generator | None = None,
    ):  # fmt: skip
        super().__init__(model, len(model.mask_tokenizer.quantize.scales))
        self.guidance, self.top_k, self.top_p, self.generator = guidance, top_k, top_p, generator

    def vectors(self, ids: Tensor, logits: Tensor) -> Tensor:
        return self.quantizer.embedding(ids)

    def choose(self, logits: Tensor) -> Tensor:
        prompted, empty = logits.float().chunk(2)
        t = self.guidance * len(self.chosen) / max(1, self.scales - 1)
        mixed = (1 + t) * prompted - t * empty
        if self.generator is None:
            return mixed.argmax(-1).repeat(2, 1)
        mixed = mixed.masked_fill(~keep_likely(mixed, self.top_k, self.top_p), -torch.inf)
        sampled = torch.multinomial(mixed.softmax(-1).flatten(0, 1), 1, generator=self.generator)
        return sampled.view(mixed.shape[:2]).repeat(2, 1)


def keep_likely(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """bool, the shape of logits [..., V]: the top_k likeliest (0 for all; ties with the last one stay), and of those
    the fewest whose probabilities reach top_p (0 for all). The likeliest always stays."""
    kept = torch.ones_like(logits, dtype=torch.bool)
    if 0 < top_k < logits.shape[-1]:
        kept = logits >= logits.topk(top_k, -1).values[..., -1:]
    if top_p > 0:
        rising, order = logits.masked_fill(~kept, -torch.inf).sort(-1)
        dropped = rising.softmax(-1).cumsum(-1) <= 1 - top_p
        dropped[..., -1] = False
        kept = kept & ~dropped.scatter(-1, order, dropped)
    return kept


class HiddenMap(ScaleByScale):
    """No tokens: G * G slots in one step, whose "logits" on C rows of the head are the decoder's feature map."""

    def first(self, batch: int) -> Tensor:
        start = super().first(batch)
        return torch.cat([start, self.model.blank_inputs(batch)], 1)

    def next(self, logits: Tensor) -> None:
        self.features = self.model.feature_map(logits)
        self.chosen.append(torch.zeros(len(logits), 0, dtype=torch.long, device=logits.device))
