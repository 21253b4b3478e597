"""Start values of position embeddings for models trained from scratch."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def grid_positions(side: int, width: int, finest: int) -> Tensor:
    """Sines and cosines of the column and the row of each cell's centre -> [side^2, width], row by row.

    Cells of grids with different sides but the same `finest` agree where they lie at the same place of the image.
    Wavelengths go from 2.7 cells of the finest grid to four times the image.
    """
    frequencies = torch.logspace(math.log10(math.pi / (2 * finest)), math.log10(0.75 * math.pi), -(-width // 4))
    centres = (torch.arange(side) + 0.5) * finest / side
    row, column = torch.meshgrid(centres, centres, indexing="ij")
    angles = [axis.flatten()[:, None] * frequencies for axis in (column, row)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], 1)[:, :width]
