"""How often a mask that is written as text had to be kept within its grammar."""

import numpy as np

from bench.evaluate.metrics.registry import Samples, mean, register


def _counted(samples: Samples) -> np.ndarray:
    return np.array([value is not None for value in samples.corrections], bool)


def _corrected(samples: Samples) -> np.ndarray:
    return np.array([bool(value) for value in samples.corrections], bool)


register(
    "corrected", mean, _corrected, _counted, title="corrected masks", occasional=True,
    note="corrected: masks in which the likeliest token was not allowed at least once",
)  # fmt: skip
