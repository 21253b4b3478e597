"""Generalised referring segmentation (gRefCOCO), scored by ReLA's rules: an expression may refer to nothing.

Reference: Liu, Ding and Jiang, "GRES: Generalized Referring Expression Segmentation", CVPR 2023, and its released
evaluation. A "positive" is a sample without a target. An empty mask says that nothing is meant; where no mask was
written nothing is said, which is wrong on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.evaluate.metrics import SampleScore

PRECISION_THRESHOLDS = (0.7, 0.8, 0.9)


def terms(scores: Sequence[SampleScore]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """n_acc = TP / (TP + FN), t_acc = TN / (TN + FP), pr@t over those with a target, as `metrics.terms` has them.

    giou and ciou are those of any other split: no target and none predicted is IoU 1 and no pixel, no target and a
    mask is IoU 0 with its pixels in the union.
    """
    none = np.array([sample.no_target for sample in scores], bool)
    empty = np.array([sample.box_mask is None for sample in scores], bool)
    iou = np.array([sample.iou for sample in scores])
    precision = {f"pr@{threshold}": ((iou >= threshold) & ~none, ~none) for threshold in PRECISION_THRESHOLDS}
    return {"n_acc": (none & empty & (iou == 1), none), "t_acc": (~none & ~empty, ~none)} | precision
