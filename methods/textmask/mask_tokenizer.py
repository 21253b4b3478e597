"""Masks as texts of one-character tokens, in either notation and for several budgets. It has no weights.

Shapes: B masks, R side of the square on which they are read and drawn, T tokens of a budget's longest text.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.base import UserError
from methods.common.masks import bilinear_mask
from methods.textmask.config import PolygonConfig, RowsConfig
from methods.textmask.numbers import DIGITS, END, NEW, NEXT, Malformed
from methods.textmask.polygon import Polygon
from methods.textmask.rows import Rows

SYMBOLS = DIGITS + NEXT + NEW + END  # ids of the mask vocabulary


class TextMaskTokenizer(nn.Module):
    """methods.base.MaskTokenizer. Its `prefixes` are the lengths of the budgets' longest texts: "the first T tokens" of
    a mask are the whole text for the budget of that length, padded with the end."""

    def __init__(self, config: PolygonConfig | RowsConfig):
        super().__init__()
        self.config, self.resolution, self.size = config, config.resolution, len(SYMBOLS)
        self.notations = {notation.length: notation for notation in map(self._notation, config.budgets)}
        self.budgets = dict(zip(self.notations, config.budgets, strict=True))  # length -> budget
        self.prefixes = tuple(self.notations)
        self.length = self.prefixes[-1]

    def _notation(self, budget: int) -> Polygon | Rows:
        if isinstance(self.config, PolygonConfig):
            return Polygon(budget, self.config.parts)
        return Rows(budget, self.config.runs)

    def notation(self, tokens: int | None) -> Polygon | Rows:
        """That of the budget for a number of tokens, the largest for None. Raises UserError if no budget has it."""
        tokens = self.length if tokens is None else tokens
        if tokens not in self.notations:
            known = ", ".join(map(str, self.prefixes))
            raise UserError(f"No mask is written in {tokens} tokens; choose one of {known}.")
        return self.notations[tokens]

    def preprocess_mask(self, mask: np.ndarray) -> np.ndarray:
        size = (self.resolution, self.resolution)
        whole = torch.from_numpy(np.ascontiguousarray(mask))[None, None].float()
        soft = F.interpolate(whole, size, mode="bilinear", antialias=True)
        return soft[0, 0].clamp(0, 1).numpy()

    def encode(self, masks: Tensor, tokens: int | None = None) -> Tensor:
        notation = self.notation(tokens)
        rows = [self.ids(notation.write(mask), notation.length) for mask in masks[:, 0].float().cpu().numpy()]
        return torch.tensor(rows, device=masks.device)

    def decode(self, ids: Tensor) -> Tensor:
        """A text that is no mask gives an empty one."""
        notation = self.notation(ids.shape[1])
        masks = [self.read(self.text(row), notation)[0] for row in ids.tolist()]
        return torch.from_numpy(np.stack(masks)).to(ids.device)

    def decode_soft(self, probabilities: Tensor) -> Tensor:
        """Of the likeliest text; nothing here is differentiable."""
        return self.decode(probabilities.argmax(-1))

    def postprocess_mask(self, probabilities: Tensor, size: tuple[int, int], mask_resize: str = "") -> np.ndarray:
        return bilinear_mask(probabilities, size)

    def read(self, text: str, notation: Polygon | Rows) -> tuple[np.ndarray, str]:
        """A text -> its mask, float32 [R, R], and why it is none (then the mask is empty)."""
        try:
            return notation.read(text, self.resolution), ""
        except Malformed as error:
            return np.zeros((self.resolution, self.resolution), np.float32), str(error)

    def disc(self, tokens: int | None) -> str:
        """The text of a disc on a tenth of the image, about as long as others, with its end."""
        places = (np.arange(self.resolution) + 0.5) / self.resolution - 0.5
        mask = places[:, None] ** 2 + places**2 < 0.1 / np.pi
        return self.notation(tokens).write(mask.astype(np.float32)) + END

    @staticmethod
    def ids(text: str, length: int) -> list[int]:
        """A text -> its ids, padded to a length with the end."""
        return [SYMBOLS.index(each) for each in text.ljust(length, END)]

    @staticmethod
    def text(ids: list[int]) -> str:
        """The inverse, without the end."""
        return "".join(SYMBOLS[each] for each in ids).partition(END)[0]
