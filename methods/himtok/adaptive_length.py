"""What it costs to stop early: mask tokens spent against IoU lost, by how much change counts as none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from methods.base import Example, Request
from methods.common.masks import mask_iou
from methods.himtok.config import AdaptiveLength

if TYPE_CHECKING:
    from methods.himtok.model import HiMTok


@dataclass(frozen=True)
class Spent:
    """One point of the curve, per example: tokens int [N] written and IoU float [N]. threshold None is the full length,
    of which every other point is compared with `lost`."""

    threshold: float | None
    tokens: np.ndarray
    iou: np.ndarray
    lost: np.ndarray  # IoU of the full length minus this one's, float [N]

    def summary(self) -> dict[str, float | None]:
        return {
            "threshold": self.threshold,
            "tokens": float(self.tokens.mean()),
            "giou": float(self.iou.mean()),
            "lost": float(self.lost.mean()),
        }


def length_curve(
    model: HiMTok, examples: Sequence[Example], thresholds: Sequence[float], every: int = 4, batch: int = 16
) -> list[Spent]:
    """Answer the examples' first sentences at full length and then once per threshold -> the curve, full length first.

    Nothing is simulated: each point is a run of the rule "early_exit". The model's own rule is put back at the end.
    """
    own, curve = model.length, []
    try:
        for threshold in (None, *thresholds):
            early = threshold is not None
            model.length = AdaptiveLength("early_exit", threshold, every) if early else replace(own, rule="full")
            tokens, iou = _answered(model, examples, None, batch)
            curve.append(Spent(threshold, tokens, iou, (curve[0].iou if curve else iou) - iou))
    finally:
        model.length = own
    return curve


def end_token_against_fixed(model: HiMTok, examples: Sequence[Example], batch: int = 16) -> tuple[Spent, Spent]:
    """The length that the model writes itself (rule "end_token"), and fixed lengths at the same mean cost: a mixture of
    the two whole numbers of tokens next to that mean. `lost` is the fixed lengths' IoU minus the written one's."""
    own = model.length
    try:
        model.length = replace(own, rule="end_token")
        tokens, iou = _answered(model, examples, None, 1)
        model.length = replace(own, rule="full")
        mean = float(tokens.mean())
        low, high = int(np.floor(mean)), int(np.ceil(mean))
        fixed = _answered(model, examples, low, batch)[1]
        if high > low:
            fixed = (high - mean) * fixed + (mean - low) * _answered(model, examples, high, batch)[1]
    finally:
        model.length = own
    return Spent(None, tokens, iou, fixed - iou), Spent(None, np.full(len(iou), mean), fixed, np.zeros(len(iou)))


def _answered(
    model: HiMTok, examples: Sequence[Example], tokens: int | None, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens written and IoU [N] of the examples' first sentences."""
    requests = [Request(example.image, example.expressions[:1], tokens=tokens) for example in examples]
    predictions = [p for i in range(0, len(requests), batch) for p in model.segment(requests[i : i + batch])]
    pairs = zip(predictions, examples, strict=True)
    iou = np.array([float(mask_iou(torch.from_numpy(p.mask), torch.from_numpy(e.mask))) for p, e in pairs])
    return np.array([len(p.token_ids) for p in predictions]), iou
