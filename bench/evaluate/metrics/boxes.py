"""Localization: shares of samples whose box has an IoU of at least a threshold with the annotated one.

`acc@t` is of the box written in the text, where one was asked for; `mask_acc@t` of the box around the mask. A sample
without a target has no box to be found.
"""

from collections.abc import Callable

import numpy as np

from bench.evaluate.metrics.registry import EVERYWHERE, NOWHERE, Samples, mean, register

THRESHOLDS = (0.5, 0.7, 0.75, 0.9)


def _asked(samples: Samples) -> np.ndarray:
    return np.array([value is not None for value in samples.box_iou_text], bool) & ~_no_target(samples)


def _no_target(samples: Samples) -> np.ndarray:
    return samples.no_target.astype(bool)


def _written(threshold: float) -> Callable[[Samples], np.ndarray]:
    return lambda s: np.array([value is not None and value >= threshold for value in s.box_iou_text], bool)


def _around_mask(threshold: float) -> Callable[[Samples], np.ndarray]:
    return lambda s: s.box_iou_mask >= threshold


for _threshold in THRESHOLDS:
    _title, _common = f"Acc@{_threshold}", _threshold != 0.75
    register(
        f"acc@{_threshold}", mean, _written(_threshold), _asked, title=_title, where=EVERYWHERE if _common else NOWHERE
    )
for _threshold in THRESHOLDS:
    register(
        f"mask_acc@{_threshold}", mean, _around_mask(_threshold), lambda s: ~_no_target(s),
        title=f"Acc@{_threshold} (mask's box)", where=EVERYWHERE if _threshold == 0.9 else NOWHERE,
    )  # fmt: skip
