"""Soft masks to the image's size."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn


def bilinear_mask(probabilities: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Probabilities [R, R] -> bool [H, W] for size = (H, W): bilinear weights before the threshold of 1/2, which loses
    less than resizing the finished mask."""
    soft = probabilities.float()[None, None]
    full = nn.functional.interpolate(soft, tuple(size), mode="bilinear", antialias=True)
    return (full[0, 0] > 0.5).cpu().numpy()
