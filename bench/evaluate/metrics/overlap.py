"""Overlap of masks over all samples, and over the small ones.

"Small", as one of the papers counts it: ground-truth area strictly below 4 % of the image, empty ones left out.
"""

import numpy as np

from bench.evaluate.metrics.registry import Samples, mean, ratio_of_sums, register

SMALL_FRACTION = 0.04


def is_small(samples: Samples) -> np.ndarray:
    """bool [N]."""
    return (samples.gt_area > 0) & (samples.gt_area_fraction < SMALL_FRACTION)


register("ciou", ratio_of_sums, lambda s: (s.intersection, s.union), title="cIoU")
register("giou", mean, lambda s: s.iou, title="gIoU")
register("small_ciou", ratio_of_sums, lambda s: (s.intersection, s.union), is_small, title="small cIoU")
