"""Images -> tiles: InternVL2.5's dynamic tiling, thumbnail and normalisation (Pillow only, no torchvision)."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # ImageNet, as in InternVL
STD = np.array([0.229, 0.224, 0.225], np.float32)


@cache
def grids(max_tiles: int) -> tuple[tuple[int, int], ...]:
    """All (columns, rows) of 1 to max_tiles tiles, by number of tiles.

    Ties keep the iteration order of the set that InternVL sorts (specs of its `dynamic_preprocess`); with small
    integer pairs that order is a property of CPython's tuple hash and the same on every machine.
    """
    found = {
        (columns, rows)
        for n in range(1, max_tiles + 1)
        for columns in range(1, n + 1)
        for rows in range(1, n + 1)
        if columns * rows <= max_tiles
    }
    return tuple(sorted(found, key=lambda grid: grid[0] * grid[1]))


def choose_grid(width: int, height: int, side: int, max_tiles: int) -> tuple[int, int]:
    """(columns, rows) whose aspect ratio is nearest to the image's.

    On a tie the later, larger grid wins only if the image has more than half of that grid's pixels.
    """
    best, best_difference = (1, 1), float("inf")
    for columns, rows in grids(max_tiles):
        difference = abs(width / height - columns / rows)
        larger = difference == best_difference and width * height > 0.5 * side * side * columns * rows
        if difference < best_difference or larger:
            best, best_difference = (columns, rows), difference
    return best


def in_square(image: Image.Image) -> Image.Image:
    """An RGB image in the middle of a square of the mean colour."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), tuple(int(255 * mean) for mean in MEAN))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def make_tiles(image: Image.Image, side: int, max_tiles: int, thumbnail: bool = True) -> np.ndarray:
    """The tiles of `cut_tiles`, normalised: float32 [tiles, 3, side, side]."""
    tiles = cut_tiles(image, side, max_tiles, thumbnail).astype(np.float32)
    return (tiles / 255 - MEAN[:, None, None]) / STD[:, None, None]


def cut_tiles(image: Image.Image, side: int, max_tiles: int, thumbnail: bool = True) -> np.ndarray:
    """uint8 [tiles, 3, side, side], row-major; a thumbnail follows if there is more than one tile. A quarter of the
    normalised ones' bytes: training hands these to the device, where `Backbone.patches` normalises them."""
    columns, rows = choose_grid(image.width, image.height, side, max_tiles)
    resized = image.resize((columns * side, rows * side), Image.Resampling.BICUBIC)
    pixels = np.array(resized).reshape(rows, side, columns, side, 3)
    tiles = pixels.transpose(0, 2, 4, 1, 3).reshape(rows * columns, 3, side, side)
    if thumbnail and len(tiles) > 1:
        small = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
        tiles = np.concatenate([tiles, small.transpose(2, 0, 1)[None]])
    return tiles
