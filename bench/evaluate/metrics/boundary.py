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
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from bench.evaluate.metrics.registry import NOWHERE, mean, register
from methods.base import Box

BF_TOLERANCE = 0.0075  # of the diagonal, MATLAB's default
DAVIS_TOLERANCE = 0.008
BIOU_WIDTH = 0.02
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
DISK2 = 400  # squared radius of the largest disk that masks are dilated with


class BoundaryScore(NamedTuple):
    """F and its two halves, each in 0..1. The halves are None when either mask is empty."""

    f: float
    precision: float | None
    recall: float | None


class Pair(NamedTuple):
    """Two masks cut to one window that holds both and, inside the image, a pixel around them.

    pred, gt: uint8 [h, w] of 0 and 1, C-contiguous. shape: (H, W) of the image, of which tolerances are shares.
    """

    pred: np.ndarray
    gt: np.ndarray
    shape: tuple[int, int]


def cut(pred: np.ndarray, gt: np.ndarray) -> Pair:
    """The pair of two masks bool[H, W]."""
    rows, columns = window_of(mask_box(pred), mask_box(gt))
    seen, true = (np.ascontiguousarray(mask[rows, columns]).view(np.uint8) for mask in (pred, gt))
    return Pair(seen, true, (pred.shape[0], pred.shape[1]))


def window_of(*boxes: Box | None) -> tuple[slice, slice]:
    """Rows and columns around boxes and a pixel more (one pixel if there are none)."""
    found = [box for box in boxes if box] or [(0.0, 0.0, 0.0, 0.0)]
    left, top, right, bottom = (edge(int(box[i]) for box in found) for i, edge in enumerate((min, min, max, max)))
    return slice(max(0, top - 1), bottom + 1), slice(max(0, left - 1), right + 1)


def mask_box(mask: np.ndarray) -> Box | None:
    """The smallest box around the true pixels of bool[H, W], ends exclusive; None for an empty mask."""
    turned = not mask.flags.c_contiguous and mask.flags.f_contiguous  # as run lengths are decoded
    pixels = np.ascontiguousarray(mask.T if turned else mask).view(np.uint8)
    x, y, width, height = cv2.boundingRect(pixels) if pixels.size else (0, 0, 0, 0)
    if turned:
        x, y, width, height = y, x, height, width
    return (float(x), float(y), float(x + width), float(y + height)) if width else None


def bf_score(pred: np.ndarray, gt: np.ndarray, tolerance: float = BF_TOLERANCE, strict: bool = True) -> BoundaryScore:
    """BF-score by MATLAB's rule.

    A boundary pixel is a mask pixel with a background pixel (or the image's edge) among its four neighbours. It is
    matched when the other mask has a boundary pixel nearer than theta = tolerance * diagonal (`strict=False`: at theta
    too). Precision is the matched share of pred's boundary, recall of gt's, F their harmonic mean.
    Both masks empty: 1. One empty: 0.
    """
    return bf_of(cut(pred, gt), tolerance, strict)


def bf_of(pair: Pair, tolerance: float = BF_TOLERANCE, strict: bool = True) -> BoundaryScore:
    """The same of a pair."""
    if not pair.pred.any() or not pair.gt.any():
        return BoundaryScore(float(pair.pred.any() == pair.gt.any()), None, None)
    edges = inner_boundary(pair.pred), inner_boundary(pair.gt)
    near = _squared_reach(pair.shape, tolerance, strict)
    precision, recall = _matched_share(*edges, near), _matched_share(*edges[::-1], near)
    return BoundaryScore(_harmonic(precision, recall), precision, recall)


def bf_davis(pred: np.ndarray, gt: np.ndarray, tolerance: float = DAVIS_TOLERANCE) -> float:
    """Boundary F of the DAVIS benchmark: matches at distance <= ceil(tolerance * diagonal).

    A pixel is boundary when its east, south or south-east neighbour has another label; the image's edge is none. No
    boundary in either mask: 1. In one only: 0.
    """
    return davis_of(cut(pred, gt), tolerance)


def davis_of(pair: Pair, tolerance: float = DAVIS_TOLERANCE) -> float:
    """The same of a pair."""
    edges = _label_changes(pair.pred), _label_changes(pair.gt)
    if not edges[0].any() or not edges[1].any():
        return float(edges[0].any() == edges[1].any())
    reach = math.ceil(tolerance * math.hypot(*pair.shape))
    return _harmonic(_matched_share(*edges, reach**2), _matched_share(*edges[::-1], reach**2))


def boundary_iou(pred: np.ndarray, gt: np.ndarray, width: float = BIOU_WIDTH) -> float:
    """IoU of the masks' inner bands of d = round(width * diagonal) pixels, at least 1. Both empty: 1."""
    return biou_of(cut(pred, gt), width)


def biou_of(pair: Pair, width: float = BIOU_WIDTH) -> float:
    """The same of a pair."""
    depth = max(1, round(width * math.hypot(*pair.shape)))
    bands = [_inner_band(mask, depth) for mask in (pair.pred, pair.gt)]
    union = cv2.countNonZero(bands[0] | bands[1])
    return cv2.countNonZero(bands[0] & bands[1]) / union if union else 1.0


def inner_boundary(mask: np.ndarray) -> np.ndarray:
    """uint8 [h, w] of 0 and 1: the mask minus its erosion by the 3x3 cross, background all around."""
    return mask - cv2.erode(mask, CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)


def _inner_band(mask: np.ndarray, depth: int) -> np.ndarray:
    """The mask minus depth erosions by the 3x3 square, background all around."""
    square = np.ones((2 * depth + 1, 2 * depth + 1), np.uint8)  # depth erosions by 3x3 are one by this
    return mask - cv2.erode(mask, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)


def _label_changes(mask: np.ndarray) -> np.ndarray:
    """DAVIS's boundary map: label differs from the east, south or south-east neighbour inside the image."""
    found = np.zeros_like(mask)
    found[:, :-1] = mask[:, :-1] ^ mask[:, 1:]
    found[:-1] |= mask[:-1] ^ mask[1:]
    found[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return found


def _squared_reach(shape: tuple[int, ...], tolerance: float, strict: bool) -> int:
    """The largest integer squared distance that still matches, in exact arithmetic."""
    theta2 = Fraction(str(tolerance)) ** 2 * (shape[0] ** 2 + shape[1] ** 2)
    return math.ceil(theta2) - 1 if strict else math.floor(theta2)


def _matched_share(queries: np.ndarray, targets: np.ndarray, reach2: int) -> float:
    """Share of the query pixels with a target pixel at squared distance <= reach2 (at least one of each)."""
    if reach2 <= DISK2:  # the pixels of all disks around targets; quicker than a distance for each while they are small
        near = cv2.dilate(targets, _disk(reach2))
    else:
        distance = cv2.distanceTransform(1 - targets, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        near = (np.rint(np.square(distance, dtype=np.float64)) <= reach2).view(np.uint8)
    return cv2.countNonZero(queries & near) / cv2.countNonZero(queries)


@cache
def _disk(reach2: int) -> np.ndarray:
    """uint8 [n, n] of 0 and 1: the offsets whose squared length is at most reach2, around the middle."""
    radius = math.isqrt(reach2)
    squares = np.arange(-radius, radius + 1) ** 2
    return (squares[:, None] + squares <= reach2).astype(np.uint8)


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0


NOTE = f"theta = {BF_TOLERANCE} of the diagonal, distance < theta"
register("bf_score", mean, lambda s: s.bf, title="BF-score", note=NOTE)
register("bf_davis", mean, lambda s: s.bf_davis, where=NOWHERE)
register("biou", mean, lambda s: s.biou, where=NOWHERE)
