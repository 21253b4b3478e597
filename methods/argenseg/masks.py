"""Masks as the VQ-VAE's images, white on black, and images back to masks; each way (`mask_resize`) by name.

"bilinear" (the default): one antialiased bicubic resize in; out, the soft grey is resized before the threshold.
"official": what the official code does. In: two bicubic resizes, first to 512 x 512, or a letterbox. Out: truncated to
8 bits, resized with Pillow's bilinear filter, then grey and threshold.

Without a tokenizer between them the two keep masks equally well: their mean IoU over random ellipses differs by less
than 0.0005, at 64 as at 256 px. "bilinear" is the simpler one; official weights go with what they were trained on.

Shapes: S side of the VQ-VAE's image, H x W the user's image.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

from methods.base import UserError
from methods.common.masks import letterbox_place

FIRST_SIDE = 512  # of the official code's two resizes, whatever the VQ-VAE's side
BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR


def preprocess_mask(mask: np.ndarray, side: int, mask_resize: str, where: str) -> np.ndarray:
    """A mask bool [H, W] -> float32 [S, S] in 0..1: white on black, resized to a square; an empty mask (no target) is a
    black image."""
    if mask.dtype != np.bool_ or mask.ndim != 2 or not mask.size:
        found = f"{mask.dtype} {list(mask.shape)}"
        raise UserError(f"{where}: the mask is {found}, but must be bool [height, width]; compare with > 0 first.")
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(mask_image(grey, side, mask_resize), np.float32) / 255


def mask_image(mask: Image.Image, side: int, mask_resize: str, letterbox: bool = False) -> Image.Image:
    """A mask or a grey image (mode "L", any size) as the VQ-VAE sees it: mode "L", S x S, white on black."""
    if mask_resize == "bilinear":
        return mask.resize((side, side), BICUBIC)
    if np.asarray(mask).max(initial=0) < 127:  # a mask of 0 and 1
        mask = Image.fromarray(np.asarray(mask) * np.uint8(255))
    if not letterbox:
        return mask.resize((FIRST_SIDE, FIRST_SIDE), BICUBIC).resize((side, side), BICUBIC)
    left, top, width, height = letterbox_place(mask.size, side)
    square = Image.new("L", (side, side))
    square.paste(mask.resize((width, height), BICUBIC), (left, top))
    return square


def to_bytes(image: Tensor) -> np.ndarray:
    """Decoder output [3, S, S] -> uint8 [S, S, 3], clamped to -1..1 and truncated as in the release."""
    return truncated((image.float().clamp(-1, 1) + 1) / 2)


def truncated(colours: Tensor) -> np.ndarray:
    """float [3, S, S] in 0..1 -> uint8 [S, S, 3]."""
    return (colours * 255).permute(1, 2, 0).byte().cpu().numpy()


def official_grey(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [h, w, 3] -> grey levels uint8 [H, W] for size = (H, W); a pixel over 127 belongs to the mask."""
    height, width = size
    return np.asarray(Image.fromarray(image).resize((width, height), BILINEAR).convert("L"))
