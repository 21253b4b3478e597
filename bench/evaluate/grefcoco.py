"""Generalised referring segmentation (gRefCOCO), scored by ReLA's rules: an expression may refer to nothing.

Reference: Liu, Ding and Jiang, "GRES: Generalized Referring Expression Segmentation", CVPR 2023, and its released
evaluation. A "positive" is a sample without a target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.evaluate.metrics import ratio

PRECISION_THRESHOLDS = (0.7, 0.8, 0.9)


@dataclass(frozen=True)
class GeneralisedScore:
    """One sample: pixel counts that enter cIoU, the IoU that enters gIoU, and the two verdicts."""

    intersection: int
    union: int
    iou: float
    no_target: bool
    predicted_no_target: bool


def score_generalised(pred: np.ndarray, gt: np.ndarray, refused: bool | None = None) -> GeneralisedScore:
    """Score bool[H, W] masks. `refused` is the method's own word that nothing is meant; None: an empty mask says so.

    No target: IoU 1 and no pixels if that was predicted, else IoU 0 with all predicted pixels in the union.
    A target that was refused counts as an empty prediction, whatever the mask says.
    """
    no_target = not gt.any()
    refused = not pred.any() if refused is None else refused
    if no_target and refused:
        return GeneralisedScore(0, 0, 1.0, True, True)
    if refused:
        return GeneralisedScore(0, int(np.count_nonzero(pred | gt)), 0.0, False, True)
    intersection, union = int(np.count_nonzero(pred & gt)), int(np.count_nonzero(pred | gt))
    return GeneralisedScore(intersection, union, intersection / union if union else 0.0, no_target, False)


def aggregate_generalised(scores: Sequence[GeneralisedScore]) -> dict[str, float | int]:
    """giou and ciou over all samples; n_acc = TP / (TP + FN), t_acc = TN / (TN + FP); pr@t over those with a target."""
    without = [sample for sample in scores if sample.no_target]
    within = [sample for sample in scores if not sample.no_target]
    figures: dict[str, float | int] = {
        "ciou": ratio(sum(s.intersection for s in scores), sum(s.union for s in scores)),
        "giou": ratio(sum(s.iou for s in scores), len(scores)),
        "n_acc": ratio(sum(s.predicted_no_target for s in without), len(without)),
        "t_acc": ratio(sum(not s.predicted_no_target for s in within), len(within)),
    }
    for threshold in PRECISION_THRESHOLDS:
        figures[f"pr@{threshold}"] = ratio(sum(s.iou >= threshold for s in within), len(within))
    return figures | {"n": len(scores), "no_target_n": len(without)}
