"""Generalised referring segmentation (gRefCOCO), scored by ReLA's rules: an expression may refer to nothing.

Reference: Liu, Ding and Jiang, "GRES: Generalized Referring Expression Segmentation", CVPR 2023, and its released
evaluation. A "positive" is a sample without a target: n_acc = TP / (TP + FN), t_acc = TN / (TN + FP), pr@t over the
samples with a target. An empty mask says that nothing is meant; where no mask was written nothing is said, which is
wrong on both sides. giou and ciou are those of any other split: no target and none predicted is IoU 1 and no pixel, no
target and a mask is IoU 0 with its pixels in the union.
"""

from collections.abc import Callable

import numpy as np

from bench.evaluate.metrics.registry import Samples, mean, register

THRESHOLDS = (0.7, 0.8, 0.9)
NOTE = "an empty mask says that there is no target"


def _none(samples: Samples) -> np.ndarray:
    return samples.no_target.astype(bool)


def _some(samples: Samples) -> np.ndarray:
    """The samples with a target, where there are others."""
    return ~_none(samples) & _none(samples).any()


def _empty(samples: Samples) -> np.ndarray:
    return np.array([sample.box_mask is None for sample in samples.scores], bool)


def _at_least(threshold: float) -> Callable[[Samples], np.ndarray]:
    return lambda s: s.iou >= threshold


register("n_acc", mean, lambda s: _empty(s) & (s.iou == 1), _none, title="N-acc", note=NOTE, occasional=True)
register("t_acc", mean, lambda s: ~_empty(s), _some, title="T-acc", note=NOTE, occasional=True)
for _threshold in THRESHOLDS:
    _title = f"Pr@{_threshold}"
    register(f"pr@{_threshold}", mean, _at_least(_threshold), _some, title=_title, note=NOTE, occasional=True)
