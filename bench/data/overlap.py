"""Images that two datasets share by what they show, whatever their files are called.

The check before every training (`contamination.py`) knows images by COCO's numbers and by their paths; here they are
opened. An image that was scaled, compressed again or stored in another format is found; a crop, a mirror image or
another frame of the same scene is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from methods.base import UserError
from methods.images import UNREADABLE, open_header, open_image

BITS = 128  # of the hash: is a cell of an 8 x 8 grid brighter than its right neighbour, and than the one below?
NEAR = 12  # differing bits up to which two images are compared as thumbnails
THUMBNAIL = 32  # pixels a side
ALIKE = 6.0  # mean difference of two thumbnails, of 255 grey levels, up to which they show the same
CHUNK = 2048  # images compared at a time: 2048 x 100,000 distances in float32 are 0.8 GB


@dataclass(frozen=True)
class Pair:
    """Two files that show the same. difference: of their thumbnails, in grey levels of 255."""

    first: Path
    second: Path
    difference: float


@dataclass(frozen=True)
class Looks:
    """What images look like: `signs` float32 [N, 128] of -1 and 1, the hash; `thumbnails` uint8 [N, 32, 32]."""

    paths: tuple[Path, ...]
    signs: np.ndarray
    thumbnails: np.ndarray
    unreadable: tuple[Path, ...]


def looks_of(paths: Sequence[Path]) -> Looks:
    """The looks of image files; those that are missing or cannot be read are listed. Raises UserError if all are."""
    read, signs, thumbnails, unreadable = [], [], [], []
    for path in dict.fromkeys(paths):
        try:
            grey = _grey(path)
        except (UserError, *UNREADABLE):
            unreadable.append(path)
            continue
        read.append(path)
        signs.append(_signs(grey))
        thumbnails.append(np.asarray(grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)))
    if not read:
        such = f"None of its {len(unreadable)} images can be read, such as {unreadable[0]}; give images=FOLDER."
        raise UserError(such if unreadable else "The dataset has no image files to compare; give another.")
    return Looks(tuple(read), np.stack(signs), np.stack(thumbnails), tuple(unreadable))


def _grey(path: Path) -> Image.Image:
    """A small upright image in greyscale; JPEG files are decoded at a fraction of their size."""
    with open_header(path) as handle:
        handle.draft("RGB", (4 * THUMBNAIL, 4 * THUMBNAIL))
        return open_image(handle).convert("L").resize((4 * THUMBNAIL, 4 * THUMBNAIL), Image.Resampling.BOX)


def _signs(grey: Image.Image) -> np.ndarray:
    cells = np.asarray(grey.resize((9, 9), Image.Resampling.BOX), np.int16)
    brighter = np.concatenate([(cells[:8, :8] > cells[:8, 1:]).ravel(), (cells[:8, :8] > cells[1:, :8]).ravel()])
    return np.where(brighter, 1, -1).astype(np.float32)


def shared_images(first: Looks, second: Looks) -> Iterator[Pair]:
    """The pairs of files that show the same, in the order of the first."""
    for start in range(0, len(first.paths), CHUNK):
        differing = (BITS - first.signs[start : start + CHUNK] @ second.signs.T) / 2
        for here, there in zip(*np.nonzero(differing <= NEAR), strict=True):
            one, other = first.thumbnails[start + here], second.thumbnails[there]
            difference = float(np.abs(one.astype(np.int16) - other).mean())
            if difference <= ALIKE:
                yield Pair(first.paths[start + here], second.paths[there], difference)
