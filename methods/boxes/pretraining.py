"""Auxiliary losses of the backbone's own pretraining, for models small enough to be trained from scratch.

They give a from-scratch vision tower and language model a dense signal long before box digits can be learned:
- dense: from each image token's last hidden state, which has read the expression, a 2 x 2 piece of the target's mask;
- semantic: from each patch of the vision tower, the class of the object under it.
Neither is part of a saved model, and the official checkpoints need none of it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from methods.base import Example
from methods.internvl.config import BackboneSize

CLASSES = 256  # room for class indices of any small dataset; 0 is background


def patch_targets(example: Example, size: BackboneSize) -> dict[str, np.ndarray]:
    """Targets on the vision tower's patch grid G x G.

    dense: float32 [G * G], share of each patch under the mask, or -1 where there is no mask;
    semantic: int64 [G * G], class at each patch's centre, or -1 where the dataset gives none.
    """
    grid = size.image_size // size.patch_size
    dense = np.full(grid * grid, -1, np.float32)
    if example.mask is not None:
        dense = area_average(example.mask, grid).ravel()
    semantic = np.full(grid * grid, -1, np.int64)
    if example.semantic is not None:
        height, width = example.semantic.shape
        rows = ((np.arange(grid) + 0.5) * height / grid).astype(int)
        columns = ((np.arange(grid) + 0.5) * width / grid).astype(int)
        semantic = example.semantic[np.ix_(rows, columns)].astype(np.int64).ravel()
    return {"dense": dense, "semantic": semantic}


def area_average(mask: np.ndarray, side: int) -> np.ndarray:
    """bool [H, W] -> float32 [side, side], the mean over each (nearly equal) cell."""
    height, width = mask.shape
    if min(height, width) < side:  # an image smaller than the grid: a pixel serves several cells
        mask = mask.repeat(-(-side // height), 0).repeat(-(-side // width), 1)
        height, width = mask.shape
    table = np.zeros((height + 1, width + 1), np.float32)
    table[1:, 1:] = mask.cumsum(0, dtype=np.float32).cumsum(1)
    rows = np.round(np.arange(side + 1) * height / side).astype(int)
    columns = np.round(np.arange(side + 1) * width / side).astype(int)
    corners = table[np.ix_(rows, columns)]
    sums = corners[1:, 1:] - corners[:-1, 1:] - corners[1:, :-1] + corners[:-1, :-1]
    return (sums / (np.diff(rows)[:, None] * np.diff(columns)[None])).astype(np.float32)


class PretrainingHeads(nn.Module):
    """Two linear read-outs: image token -> 4 mask logits, patch -> class logits."""

    def __init__(self, size: BackboneSize):
        super().__init__()
        self.dense = nn.Linear(size.text_width, 4)
        nn.init.constant_(self.dense.bias, -2.0)  # most of an image is not the target
        self.semantic = nn.Sequential(nn.LayerNorm(size.vision_width), nn.Linear(size.vision_width, CLASSES))

    def forward(self, image_tokens: Tensor, patches: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """image_tokens [B, P, D], patches [N, 4P, C]; batch holds dense [B, 4P], semantic [B, 4P] and tile_of [B].

        Every batch uses both read-outs and has a loss of each, or ZeRO's processes would get stuck: "idle_dense" and
        "idle_semantic" are 0 times a read-out that has no target.
        """
        losses = {}
        rows = batch["dense"][:, 0] >= 0
        if rows.any():
            losses |= self._dense(image_tokens[rows], batch["dense"][rows])
        else:
            losses["idle_dense"] = 0 * self.dense(image_tokens[:1]).float().sum()
        classes = torch.full((len(patches), patches.shape[1]), -1, device=patches.device)
        classes[batch["tile_of"]] = batch["semantic"]
        if (classes >= 0).any():
            logits = self.semantic(patches).float().flatten(0, 1)
            losses["semantic"] = nn.functional.cross_entropy(logits, classes.flatten(), ignore_index=-1)
        else:
            losses["idle_semantic"] = 0 * self.semantic(patches[:1]).float().sum()
        return losses

    def _dense(self, image_tokens: Tensor, target: Tensor) -> dict[str, Tensor]:
        side = int(image_tokens.shape[1] ** 0.5)
        pieces = self.dense(image_tokens).float().reshape(-1, side, side, 2, 2)
        logits = pieces.permute(0, 1, 3, 2, 4).reshape(len(target), -1)
        bce = nn.functional.binary_cross_entropy_with_logits(logits, target)
        p = logits.sigmoid()
        dice = 1 - ((2 * (p * target).sum(1) + 1) / (p.sum(1) + target.sum(1) + 1)).mean()
        pointed = (target.gather(1, logits.argmax(1, keepdim=True)) > 0.4).float().mean()
        return {"dense": 4 * bce + dice, "_pointing": pointed}
