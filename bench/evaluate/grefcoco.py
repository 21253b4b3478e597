"""Generalised referring segmentation (gRefCOCO), scored by ReLA's rules: an expression may refer to nothing.

Reference: Liu, Ding and Jiang, "GRES: Generalized Referring Expression Segmentation", CVPR 2023, and its released
evaluation. A "positive" is a sample without a target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.evaluate.metrics import SampleScore, ratio

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


def of_sample(sample: SampleScore) -> GeneralisedScore:
    """A sample scored like any other (ciou and giou come out alike); an empty mask says that nothing is meant."""
    no_target, refused = not sample.gt_area, sample.box_mask is None
    return GeneralisedScore(sample.intersection, sample.union, sample.iou, no_target, refused)


def terms(scores: Sequence[GeneralisedScore]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """n_acc = TP / (TP + FN), t_acc = TN / (TN + FP), pr@t over those with a target, as `metrics.terms` has them."""
    none = np.array([sample.no_target for sample in scores], bool)
    refused = np.array([sample.predicted_no_target for sample in scores], bool)
    iou = np.array([sample.iou for sample in scores])
    precision = {f"pr@{threshold}": ((iou >= threshold) & ~none, ~none) for threshold in PRECISION_THRESHOLDS}
    return {"n_acc": (none & refused, none), "t_acc": (~none & ~refused, ~none)} | precision


def aggregate_generalised(scores: Sequence[GeneralisedScore]) -> dict[str, float | int]:
    """giou and ciou over all samples, the figures of `terms`, n and no_target_n."""
    figures: dict[str, float | int] = {
        "ciou": ratio(sum(s.intersection for s in scores), sum(s.union for s in scores)),
        "giou": ratio(sum(s.iou for s in scores), len(scores)),
    }
    figures |= {name: ratio(top.sum(), below.sum()) for name, (top, below) in terms(scores).items()}
    return figures | {"n": len(scores), "no_target_n": sum(s.no_target for s in scores)}
