"""A mask as outlines: "x,y,x,y,...;x,y,...", coordinates 0..999 of the image's width and height.

Each outline runs clockwise from its top left point; parts and holes follow each other by size, and the even-odd rule
tells one from the other. An empty text is an empty mask.

A text that does not keep to this is repaired by these rules, or is no mask (Malformed):
- a coordinate without its partner at an outline's end is dropped, and an outline of fewer than three different points;
- outlines that cross themselves or each other, or run the other way round, are filled by the even-odd rule as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from methods.textmask.numbers import END, NEW, NEXT, Malformed, join, next_digits, parse
from methods.textmask.outlines import draw, simplify, trace

SCALE = 999
LEAST = 3  # points of an outline
PER_POINT = 2 * (len(str(SCALE)) + 1)  # tokens of two coordinates and what follows each


@dataclass(frozen=True)
class Polygon:
    """Outlines of at most `points` points together, of at most so many parts and as many holes."""

    points: int
    parts: int

    @property
    def length(self) -> int:
        """Tokens of the longest text, its end included."""
        return self.points * PER_POINT

    @property
    def usual(self) -> int:
        """Tokens of a usual text, whose outlines have all points and whose coordinates nearly all digits."""
        return self.length

    def write(self, mask: np.ndarray) -> str:
        """A soft mask [R, R] -> its text."""
        outlines = simplify(trace(mask, self.parts), self.points, 0.5 / SCALE)
        rounded = (_distinct(np.rint(outline.clip(0, 1) * SCALE).astype(int)) for outline in outlines)
        return join(points.ravel().tolist() for points in rounded if len(points) >= LEAST)

    def read(self, text: str, side: int) -> np.ndarray:
        """A text -> its mask, float32 [side, side]. Raises Malformed."""
        lists = parse(text)
        if not lists:
            return np.zeros((side, side), np.float32)
        if max(map(max, lists)) > SCALE:
            raise Malformed("a coordinate is beyond the image")
        points = (_distinct(np.array(each[: len(each) // 2 * 2]).reshape(-1, 2)) for each in lists)
        outlines = [each / SCALE for each in points if len(each) >= LEAST]
        if not outlines:
            raise Malformed("no outline has three points")
        mask = draw(outlines, side)
        if not mask.any():
            raise Malformed("its outlines enclose nothing")
        return mask

    def allowed(self, text: str) -> str:
        """The characters that may follow the beginning of a text; END stands for its end."""
        *whole, last = text.split(NEW)
        numbers = last.split(NEXT)
        digits = next_digits(numbers[-1], 0, SCALE)
        if not numbers[-1]:
            return digits if text else digits + END
        if len(numbers) % 2:
            return digits + NEXT
        begun = sum(outline.count(NEXT) + 1 for outline in whole) + len(numbers)
        left = self.points - begun // 2
        another = NEXT if left else ""
        if len(numbers) < 2 * LEAST:
            return digits + another
        return digits + another + END + (NEW if left >= LEAST and len(whole) + 1 < 2 * self.parts else "")


def _distinct(points: np.ndarray) -> np.ndarray:
    """Points [n, 2] without those that repeat the one before."""
    return points[(points != np.roll(points, 1, 0)).any(1)]
