"""Outlines of a mask, fewer points of them, and back. An outline is float64 [n, 2], x and y in 0..1 of the image,
closed from the last point to the first."""

from __future__ import annotations

import heapq

import numpy as np
from contourpy import contour_generator
from scipy.ndimage import label

SAMPLES = 4  # per pixel and axis, of a mask that is drawn


def trace(mask: np.ndarray, parts: int) -> list[np.ndarray]:
    """The outlines of a soft mask [R, R] at the level 1/2 between the pixels' centres, large ones first.

    Of separate parts, and of holes, the `parts` largest are traced. Each outline runs clockwise from the point that is
    nearest to the image's top left corner, along the diagonals."""
    side = len(mask)
    mask = np.pad(mask.astype(np.float64), 1)
    mask[_beyond(mask > 0.5, parts)] = 0
    holes = label(mask <= 0.5)[0]
    mask[_beyond((holes > 0) & (holes != holes[0, 0]), parts)] = 1
    found = [(line[:-1] - 0.5) / side for line in contour_generator(z=mask).lines(0.5) if len(line) > 3]
    found.sort(key=lambda outline: -abs(area(outline)))
    return [_arranged(outline) for outline in found[: 2 * parts]]


def _beyond(seen: np.ndarray, count: int) -> np.ndarray:
    """bool [R, R]: the connected regions of `seen` but for the largest ones."""
    regions, _ = label(seen)
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    small = np.ones(len(sizes), bool)
    small[[0, *np.argsort(-sizes, kind="stable")[:count]]] = False
    return small[regions]


def area(outline: np.ndarray) -> float:
    """Signed: positive if it runs clockwise, y pointing down."""
    x, y = outline.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _arranged(outline: np.ndarray) -> np.ndarray:
    outline = outline if area(outline) > 0 else outline[::-1]
    return np.roll(outline, -int(outline.sum(1).argmin()), 0)


def simplify(outlines: list[np.ndarray], points: int, tolerance: float) -> list[np.ndarray]:
    """At most `points` points of all outlines together, by the criterion of Douglas and Peucker (1973): next comes
    always the point that lies farthest from its chord, of whichever outline, until none lies farther than `tolerance`.

    Every outline has at least three points, so that a small budget leaves small outlines out."""
    outlines = [outline for outline in outlines[: max(1, points // 4)] if len(outline) >= 3]
    kept: list[list[int]] = []
    chords: list[tuple[float, int, int, int, int]] = []  # -distance, outline, its point, the chord's ends

    def add(number: int, first: int, last: int) -> None:
        far, distance = _farthest(outlines[number], first, last)
        heapq.heappush(chords, (-distance, number, far, first, last))

    for number, outline in enumerate(outlines):
        opposite = int(((outline - outline[0]) ** 2).sum(1).argmax())
        sides = [(*_farthest(outline, *ends), ends) for ends in ((0, opposite), (opposite, len(outline)))]
        far, _, (first, last) = max(sides, key=lambda each: each[1])
        kept.append([0, opposite, far])
        for ends in ((first, far), (far, last), *(each[2] for each in sides if each[2] != (first, last))):
            add(number, *ends)
    while chords and sum(map(len, kept)) < points:
        distance, number, far, first, last = heapq.heappop(chords)
        if -distance <= tolerance:
            break
        kept[number].append(far)
        add(number, first, far)
        add(number, far, last)
    return [outline[sorted(set(found))] for outline, found in zip(outlines, kept, strict=True)]


def _farthest(outline: np.ndarray, first: int, last: int) -> tuple[int, float]:
    """The point between two of an outline (`last` may be its length, the first point again) that lies farthest from
    their chord, and how far; the first point itself if there is none."""
    between = outline[first + 1 : last] - outline[first]
    if not len(between):
        return first, 0.0
    chord = outline[last % len(outline)] - outline[first]
    length = float(np.hypot(*chord))
    across = between[:, 0] * chord[1] - between[:, 1] * chord[0]
    distances = np.abs(across) / length if length else np.hypot(*between.T)
    return first + 1 + int(distances.argmax()), float(distances.max())


def draw(outlines: list[np.ndarray], side: int) -> np.ndarray:
    """Outlines -> the share of each pixel inside, float32 [side, side], by the even-odd rule: an outline within another
    is a hole, and of one that crosses itself the doubly enclosed part is outside."""
    fine = side * SAMPLES
    crossings = np.zeros((fine, fine + 1), np.int32)
    heights = np.arange(fine) + 0.5
    for outline in outlines:
        (x1, y1), (x2, y2) = (outline * fine).T, (np.roll(outline, -1, 0) * fine).T
        edge, row = np.nonzero((y1[:, None] <= heights) != (y2[:, None] <= heights))
        share = (heights[row] - y1[edge]) / (y2[edge] - y1[edge])
        column = np.ceil(x1[edge] + share * (x2[edge] - x1[edge]) - 0.5).clip(0, fine).astype(np.int64)
        np.add.at(crossings, (row, column), 1)
    inside = crossings.cumsum(1)[:, :fine] % 2
    return inside.reshape(side, SAMPLES, side, SAMPLES).mean((1, 3), dtype=np.float32)
