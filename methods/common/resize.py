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


def nearest_mask(probabilities: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Probabilities [R, R] -> bool [H, W] for size = (H, W): each pixel takes the one that Pillow's NEAREST takes,
    then the threshold of 1/2."""
    soft = probabilities.float().cpu().numpy() > 0.5
    rows, columns = (nearest_indices(source, target) for source, target in zip(soft.shape, size, strict=True))
    return soft[rows][:, columns]


def nearest_indices(source: int, target: int) -> np.ndarray:
    """The index among `source` pixels that each of `target` pixels takes, int64 [target].

    Pillow adds its step up in double precision, so that a place which ought to be a whole number often falls just short
    of it; `torch.nn.functional.interpolate` rounds otherwise there (up to 28 of 640 columns out of 256).
    """
    step = source / target
    places = np.cumsum(np.concatenate([[step / 2], np.full(target - 1, step)]))
    return np.minimum(places.astype(np.int64), source - 1)
