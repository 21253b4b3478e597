"""Overlap by size of the ground truth: COCO's buckets, cut at 32^2 and 96^2 pixels."""

import numpy as np

from bench.evaluate.metrics.registry import NOWHERE, RECONSTRUCTIONS, Among, Samples, mean, ratio_of_sums, register

BUCKETS = {"small": (1, 32**2), "medium": (32**2, 96**2), "large": (96**2, float("inf"))}  # low <= area < high
TITLES = {"small": "area < 32²", "medium": "32² to 96²", "large": "larger"}


def _within(low: float, high: float) -> Among:
    def among(samples: Samples) -> np.ndarray:
        return (samples.gt_area >= low) & (samples.gt_area < high)

    return among


for _name, _bounds in BUCKETS.items():
    register(f"ciou@{_name}", ratio_of_sums, lambda s: (s.intersection, s.union), _within(*_bounds), where=NOWHERE)
    _title = f"gIoU, {TITLES[_name]}"
    register(f"giou@{_name}", mean, lambda s: s.iou, _within(*_bounds), title=_title, where=RECONSTRUCTIONS)
