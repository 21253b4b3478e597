"""What a mask is like: how large, of which aspect, where in the image, of how many parts, and how complex its outline.
Groups of breakdowns."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

SIZES = ((0.01, "below 1 %"), (0.04, "1 to 4 %"), (0.15, "4 to 15 %"), (1.01, "15 % and more"))  # of the image's area
SPECK = 0.01  # of a mask; smaller parts are not counted
BENT, COMPLEX = 1.6, 3.0  # times the squared perimeter of a disc of the same area
TALL = 2.0  # times as tall as wide, or the other way round


def size_of(mask: np.ndarray) -> str:
    """The share of the image that a mask covers, as one of SIZES."""
    return next(name for share, name in SIZES if mask.mean() < share)


def _bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """left, top, right, bottom of a mask that is not empty, ends exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def aspect_of(mask: np.ndarray) -> str:
    """Whether a mask's box is tall, wide or neither."""
    left, top, right, bottom = _bounds(mask)
    ratio = (bottom - top) / (right - left)
    return "tall" if ratio >= TALL else "wide" if ratio <= 1 / TALL else "compact"


def place_of(mask: np.ndarray) -> str:
    """Which borders a mask touches, else the third of the image's width in which its centre lies."""
    left, top, right, bottom = _bounds(mask)
    height, width = mask.shape
    touched = [name for name, at in (("left", left == 0), ("right", right == width), ("top", top == 0),
                                     ("bottom", bottom == height)) if at]  # fmt: skip
    if touched:
        return f"at the {touched[0]} border" if len(touched) == 1 else "at several borders"
    return ("on the left", "in the middle", "on the right")[min(2, int(3 * (left + right) / 2 / width))]


def parts_of(mask: np.ndarray) -> str:
    """How many separate parts a mask has."""
    _, _, found, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = found[1:, cv2.CC_STAT_AREA]
    count = int((areas >= SPECK * areas.sum()).sum())
    return "1 part" if count == 1 else "2 parts" if count == 2 else "3 parts and more"


def outline_of(mask: np.ndarray) -> str:
    """How long the outlines of a mask are for its area, holes included: a disc's squared perimeter is 4 pi times it."""
    outlines, _ = cv2.findContours(np.pad(mask, 1).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    ratio = sum(cv2.arcLength(each, True) for each in outlines) ** 2 / (4 * np.pi * mask.sum())
    return "plain" if ratio < BENT else "bent" if ratio < COMPLEX else "complex"


GROUPS: dict[str, Callable[[np.ndarray], str]] = {
    "size": size_of, "aspect": aspect_of, "place": place_of, "parts": parts_of, "outline": outline_of
}  # fmt: skip
OF_SAMPLES = ("size", "parts", "outline")  # the groups by which scores of answers are told


def groups_of(mask: np.ndarray | None) -> dict[str, str]:
    """The groups of a sample with this ground truth, bool [H, W]; none of an empty one."""
    return {name: GROUPS[name](mask) for name in OF_SAMPLES} if mask is not None and mask.any() else {}
