"""Overlap by class, for datasets that are opened with classes: `miou_class` is the mean over the classes of each one's
sum of intersections over its sum of unions (mIoU of semantic segmentation)."""

import numpy as np

from bench.evaluate.metrics.registry import Samples, per_class, register


def _named(samples: Samples) -> np.ndarray:
    return np.array([sample.category is not None for sample in samples.scores], bool)


register(
    "miou_class", per_class, lambda s: (s.intersection, s.union), _named, title="mIoU over classes", occasional=True
)
