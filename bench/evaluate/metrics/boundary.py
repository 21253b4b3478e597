"""How well two outlines agree: BF-score (MATLAB's and DAVIS's rule) and Boundary IoU.

Every function takes two masks bool[H, W] and is exact. The masks are cropped to the box that holds both before any
distance is computed: outside it both are background, so zero padding stands for the image's edge and for the crop's
edge alike, and the answer does not change.

Sources: MATLAB `bfscore` (Csurka et al., BMVC 2013); davis2017-evaluation `db_eval_boundary` (Perazzi et al., CVPR
2016); Boundary IoU (Cheng et al., CVPR 2021).
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import cv2
import numpy as np

from bench.evaluate.metrics.registry import NOWHERE, mean, register

BF_TOLERANCE = 0.0075  # of the diagonal, MATLAB's default
DAVIS_TOLERANCE = 0.008
BIOU_WIDTH = 0.02


class BoundaryScore(NamedTuple):
    """F and its two halves, each in 0..1. The halves are None when either mask is empty."""

    f: float
    precision: float | None
    recall: float | None


def bf_score(pred: np.ndarray, gt: np.ndarray, tolerance: float = BF_TOLERANCE, strict: bool = True) -> BoundaryScore:
    """BF-score by MATLAB's rule.

    A boundary pixel is a mask pixel with a background pixel (or the image's edge) among its four neighbours. It is
    matched when the other mask has a boundary pixel nearer than theta = tolerance * diagonal (`strict=False`: at theta
    too). Precision is the matched share of pred's boundary, recall of gt's, F their harmonic mean.
    Both masks empty: 1. One empty: 0.
    """
    if not pred.any() or not gt.any():
        return BoundaryScore(float(pred.any() == gt.any()), None, None)
    window = _union_window(pred, gt)
    edges = [inner_boundary(mask[window]) for mask in (pred, gt)]
    near = _squared_reach(pred.shape, tolerance, strict)
    precision, recall = _matched_share(*edges, near), _matched_share(*edges[::-1], near)
    return BoundaryScore(_harmonic(precision, recall), precision, recall)


def bf_davis(pred: np.ndarray, gt: np.ndarray, tolerance: float = DAVIS_TOLERANCE) -> float:
    """Boundary F of the DAVIS benchmark: matches at distance <= ceil(tolerance * diagonal).

    A pixel is boundary when its east, south or south-east neighbour has another label; the image's edge is none. No
    boundary in either mask: 1. In one only: 0.
    """
    window = _union_window(pred, gt, margin=1)
    edges = [_label_changes(mask[window]) for mask in (pred, gt)]
    if not edges[0].any() or not edges[1].any():
        return float(edges[0].any() == edges[1].any())
    reach = math.ceil(tolerance * math.hypot(*pred.shape))
    return _harmonic(_matched_share(*edges, reach**2), _matched_share(*edges[::-1], reach**2))


def boundary_iou(pred: np.ndarray, gt: np.ndarray, width: float = BIOU_WIDTH) -> float:
    """IoU of the masks' inner bands of d = round(width * diagonal) pixels, at least 1. Both empty: 1."""
    window = _union_window(pred, gt)
    depth = max(1, round(width * math.hypot(*pred.shape)))
    bands = [_inner_band(mask[window], depth) for mask in (pred, gt)]
    union = np.count_nonzero(bands[0] | bands[1])
    return float(np.count_nonzero(bands[0] & bands[1]) / union) if union else 1.0


def _union_window(a: np.ndarray, b: np.ndarray, margin: int = 0) -> tuple[slice, slice]:
    """The smallest window that holds both masks, widened by margin inside the image (one pixel if both are empty)."""
    spans = []
    for axis in (1, 0):
        used = np.flatnonzero(a.any(axis) | b.any(axis))
        low, high = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 1)
        spans.append(slice(max(0, low - margin), high + margin))
    return spans[0], spans[1]


def inner_boundary(mask: np.ndarray) -> np.ndarray:
    """The mask minus its erosion by the 3x3 cross, background all around."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def _inner_band(mask: np.ndarray, depth: int) -> np.ndarray:
    """The mask minus depth erosions by the 3x3 square, background all around."""
    square = np.ones((2 * depth + 1, 2 * depth + 1), np.uint8)  # depth erosions by 3x3 are one by this
    core = cv2.erode(mask.astype(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask & (core == 0)


def _label_changes(mask: np.ndarray) -> np.ndarray:
    """DAVIS's boundary map: label differs from the east, south or south-east neighbour inside the image."""
    east, south = np.zeros_like(mask), np.zeros_like(mask)
    east[:, :-1] = mask[:, :-1] ^ mask[:, 1:]
    south[:-1] = mask[:-1] ^ mask[1:]
    diagonal = np.zeros_like(mask)
    diagonal[:-1, :-1] = mask[:-1, :-1] ^ mask[1:, 1:]
    return east | south | diagonal


def _squared_reach(shape: tuple[int, ...], tolerance: float, strict: bool) -> int:
    """The largest integer squared distance that still matches, in exact arithmetic."""
    theta2 = Fraction(str(tolerance)) ** 2 * (shape[0] ** 2 + shape[1] ** 2)
    return math.ceil(theta2) - 1 if strict else math.floor(theta2)


def _matched_share(queries: np.ndarray, targets: np.ndarray, reach2: int) -> float:
    """Share of the query pixels with a target pixel at squared distance <= reach2 (at least one of each)."""
    distance = cv2.distanceTransform((~targets).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[queries]
    return float(np.mean(np.rint(np.square(distance, dtype=np.float64)) <= reach2))


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0


NOTE = f"theta = {BF_TOLERANCE} of the diagonal, distance < theta"
register("bf_score", mean, lambda s: s.bf, title="BF-score", note=NOTE)
register("bf_davis", mean, lambda s: s.bf_davis, where=NOWHERE)
register("biou", mean, lambda s: s.biou, where=NOWHERE)
