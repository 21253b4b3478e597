"""The grid on which masks are learned and drawn. It makes no tokens: a hidden state is not one of so many codes, and
without the image nothing can be decoded from it.

Shapes: R side of the grid.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.common.masks import bilinear_mask


class MaskGrid(nn.Module):
    """methods.base.MaskTokenizer of a vocabulary of one token, [SEG], from which alone no mask can be decoded."""

    prefixes: tuple[int, ...] = ()

    def __init__(self, resolution: int):
        super().__init__()
        self.resolution, self.length, self.size = resolution, 1, 1

    def preprocess_mask(self, mask: np.ndarray) -> np.ndarray:
        size = (self.resolution, self.resolution)
        whole = torch.from_numpy(np.ascontiguousarray(mask))[None, None].float()
        return F.interpolate(whole, size, mode="bilinear", antialias=True)[0, 0].clamp(0, 1).numpy()

    def postprocess_mask(self, probabilities: Tensor, size: tuple[int, int], mask_resize: str = "") -> np.ndarray:
        return bilinear_mask(probabilities, size)
