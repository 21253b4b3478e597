"""Masks of samples, and soft masks to the image's size."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


def bilinear_mask(probabilities: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Probabilities [R, R] -> bool [H, W] for size = (H, W): bilinear weights before the threshold of 1/2, which loses
    less than resizing the finished mask."""
    soft = probabilities.float()[None, None]
    full = nn.functional.interpolate(soft, tuple(size), mode="bilinear", antialias=True)
    return (full[0, 0] > 0.5).cpu().numpy()


def nearest_mask(probabilities: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Probabilities [R, R] -> bool [H, W] for size = (H, W): each pixel takes the one that Pillow's NEAREST takes,
    then the threshold of 1/2."""
    soft = probabilities.float().cpu().numpy() > 0.5
    rows, columns = (nearest_indices(source, target) for source, target in zip(soft.shape, size, strict=True))
    return soft[rows][:, columns]


def letterbox_place(size: tuple[int, int], side: int) -> tuple[int, int, int, int]:
    """Where an image of size (W, H) lies in the square that it fills: left, top, width, height.

    The longer side is exactly the square's; the shorter one is cut to a whole number, by ARGenSeg's arithmetic, since
    the reciprocal of a rounded ratio may fall a pixel short."""
    ratio = size[0] / size[1]
    width, height = (side, max(1, int(side / ratio))) if ratio > 1 else (max(1, int(side * ratio)), side)
    return (side - width) // 2, (side - height) // 2, width, height


def without_letterbox(square: Tensor, size: tuple[int, int]) -> Tensor:
    """[..., S, S] -> the part [..., h, w] of it in which an image of size = (H, W) lies."""
    left, top, width, height = letterbox_place((size[1], size[0]), square.shape[-1])
    return square[..., top : top + height, left : left + width]


def nearest_indices(source: int, target: int) -> np.ndarray:
    """The index among `source` pixels that each of `target` pixels takes, int64 [target].

    Pillow adds its step up in double precision, so that a place which ought to be a whole number often falls just short
    of it; `torch.nn.functional.interpolate` rounds otherwise there (up to 28 of 640 columns out of 256).
    """
    step = source / target
    places = np.cumsum(np.concatenate([[step / 2], np.full(target - 1, step)]))
    return np.minimum(places.astype(np.int64), source - 1)


def mask_losses(logits: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Binary cross-entropy, and one minus Dice's coefficient of each mask with 1 added to both of its counts, of
    logits [M, P] against masks [M, P] in 0..1."""
    p = logits.sigmoid()
    dice = 1 - (2 * (p * truth).sum(1) + 1) / (p.sum(1) + truth.sum(1) + 1)
    return {"bce": nn.functional.binary_cross_entropy_with_logits(logits, truth), "dice": dice.mean()}


def mask_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of masks bool [..., R, R] -> float [...]; 1 where both are empty."""
    union = (a | b).flatten(-2).sum(-1)
    return torch.where(union > 0, (a & b).flatten(-2).sum(-1) / union.clamp(min=1), 1.0)
