"""What it costs to stop early: mask tokens spent against IoU lost, by how much change counts as none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from methods.base import Example, Prediction, Request
from methods.himtok.schedule import Stopping

if TYPE_CHECKING:
    from methods.himtok.model import HiMTok


@dataclass(frozen=True)
class Spent:
    """One point of the curve, per example: tokens int [N] written and IoU float [N]. tolerance None is the full length,
    of which every other point is compared with `lost`."""

    tolerance: float | None
    tokens: np.ndarray
    iou: np.ndarray
    lost: np.ndarray  # IoU of the full length minus this one's, float [N]

    def summary(self) -> dict[str, float | None]:
        return {
            "tolerance": self.tolerance,
            "tokens": float(self.tokens.mean()),
            "giou": float(self.iou.mean()),
            "lost": float(self.lost.mean()),
        }


def length_curve(
    method: HiMTok, examples: Sequence[Example], tolerances: Sequence[float], every: int = 4, batch: int = 16
) -> list[Spent]:
    """Answer the examples' first sentences at full length and then once per tolerance -> the curve, full length first.

    Nothing is simulated: each point is a run of the rule "settled". The method's own rule is put back at the end.
    """
    own, curve = method.stopping, []
    try:
        for tolerance in (None, *tolerances):
            settled = tolerance is not None
            method.stopping = Stopping("settled", tolerance, every) if settled else replace(own, rule="full")
            tokens, iou = _answered(method, examples, None, batch)
            curve.append(Spent(tolerance, tokens, iou, (curve[0].iou if curve else iou) - iou))
    finally:
        method.stopping = own
    return curve


def written_against_fixed(method: HiMTok, examples: Sequence[Example], batch: int = 16) -> tuple[Spent, Spent]:
    """The length that the model writes itself (rule "written"), and fixed lengths at the same mean cost: a mixture of
    the two whole numbers of tokens next to that mean. `lost` is the fixed lengths' IoU minus the written one's."""
    own = method.stopping
    try:
        method.stopping = replace(own, rule="written")
        tokens, iou = _answered(method, examples, None, 1)
        method.stopping = replace(own, rule="full")
        mean = float(tokens.mean())
        low, high = int(np.floor(mean)), int(np.ceil(mean))
        fixed = _answered(method, examples, low, batch)[1]
        if high > low:
            fixed = (high - mean) * fixed + (mean - low) * _answered(method, examples, high, batch)[1]
    finally:
        method.stopping = own
    return Spent(None, tokens, iou, fixed - iou), Spent(None, np.full(len(iou), mean), fixed, np.zeros(len(iou)))


def _answered(
    method: HiMTok, examples: Sequence[Example], tokens: int | None, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens written and IoU [N] of the examples' first sentences."""
    requests = [Request(example.image, example.expressions[:1], tokens=tokens) for example in examples]
    predictions = [p for i in range(0, len(requests), batch) for p in method.segment(requests[i : i + batch])]
    iou = np.array([_iou(p, e) for p, e in zip(predictions, examples, strict=True)])
    return np.array([len(p.token_ids) for p in predictions]), iou


def _iou(prediction: Prediction, example: Example) -> float:
    """IoU at the picture's size; 1 where both are empty."""
    union = (prediction.mask | example.mask).sum()
    return float((prediction.mask & example.mask).sum() / union) if union else 1.0
