"""A mask as the rows of a coarse grid: "first;row;row;...", the number of the first row that has something, then every
row to the last one that has.

A row is written as lengths that alternate between outside and inside, "3,2,4,1": after three cells two of the mask,
after four more another one; what remains is outside. An empty row in between is "0", an empty mask the empty text.

A text that does not keep to this is repaired by these rules, or is no mask (Malformed): what reaches beyond the grid's
right or lower side is cut off there, and a last length of the outside is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from methods.textmask.numbers import END, NEW, NEXT, Malformed, join, next_digits, parse

WIDEST = 2  # digits of a length


@dataclass(frozen=True)
class Rows:
    """A grid of `grid` x `grid` cells, with at most `runs` runs in a row."""

    grid: int
    runs: int

    @property
    def length(self) -> int:
        """Tokens of the longest text, its end included."""
        return (1 + self.grid * 2 * self.runs) * (WIDEST + 1)

    @property
    def usual(self) -> int:
        """Tokens of a usual text: RefMoji 2's validation masks have 26, 43 and 63 on average in 16, 24 and 32 cells."""
        return 2 * self.grid

    def write(self, mask: np.ndarray) -> str:
        """A soft mask [R, R] -> its text. A cell is of the mask if more than half of it is; where none is, the fullest
        one. Of a row that has too many runs the longest are kept."""
        cells = F.adaptive_avg_pool2d(torch.from_numpy(mask)[None].float(), self.grid)[0].numpy()
        seen = cells > 0.5
        if not seen.any() and (mask > 0.5).any():
            seen = cells == cells.max()
        rows = np.flatnonzero(seen.any(1))
        if not len(rows):
            return ""
        return join([[int(rows[0])], *(self._lengths(row) for row in seen[rows[0] : rows[-1] + 1])])

    def _lengths(self, row: np.ndarray) -> list[int]:
        ends = np.flatnonzero(np.diff(np.pad(row.astype(int), 1))).reshape(-1, 2)  # of each run
        kept = ends[np.sort(np.argsort(ends[:, 0] - ends[:, 1], kind="stable")[: self.runs])]
        return np.diff(kept.ravel(), prepend=0).tolist() or [0]

    def read(self, text: str, side: int) -> np.ndarray:
        """A text -> its mask, soft between the cells' centres, float32 [side, side]. Raises Malformed."""
        cells = np.zeros((self.grid, self.grid), np.float32)
        lists = parse(text)
        if lists:
            self._fill(cells, lists)
        soft = F.interpolate(torch.from_numpy(cells)[None, None], (side, side), mode="bilinear", antialias=True)
        return soft[0, 0].numpy()

    def _fill(self, cells: np.ndarray, lists: list[list[int]]) -> None:
        (first, *more), *rows = lists
        if more:
            raise Malformed("it does not begin with the number of a row")
        if first >= self.grid:
            raise Malformed("its first row is below the grid")
        for row, lengths in zip(cells[first:], rows, strict=False):
            ends = np.cumsum(lengths)
            for start, end in zip(ends[::2], ends[1::2], strict=False):
                row[start:end] = 1
        if not cells.any():
            raise Malformed("its rows hold no cell")

    def allowed(self, text: str) -> str:
        """The characters that may follow the beginning of a text; END stands for its end."""
        fields = text.split(NEW)
        if len(fields) == 1:
            return next_digits(text, 0, self.grid - 1) + (NEW if text else END)
        lengths = fields[-1].split(NEXT)
        free = self.grid - sum(map(int, lengths[:-1]))  # cells to the right of what is finished
        more_rows = int(fields[0]) + len(fields) - 1 < self.grid
        if len(lengths) % 2:
            return self._after_outside(lengths, free, more_rows)
        digits = next_digits(lengths[-1], 1, free)
        if not lengths[-1]:
            return digits
        another = NEXT if free - int(lengths[-1]) >= 2 and len(lengths) < 2 * self.runs else ""
        return digits + another + END + (NEW if more_rows else "")

    @staticmethod
    def _after_outside(lengths: list[str], free: int, more_rows: bool) -> str:
        """In or behind a length of the outside, which leaves a cell for the run that must follow; "0" alone is an empty
        row, unless it is the last."""
        digits = next_digits(lengths[-1], int(len(lengths) > 1), free - 1)
        empty = NEW if lengths == ["0"] and more_rows else ""
        return digits + (NEXT if lengths[-1] else "") + empty
