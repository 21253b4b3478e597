"""Tiling against the released arithmetic, and the pixels that come out of it."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from methods.internvl.tiles import MEAN, STD, choose_grid, grids, make_tiles


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * 10007 + height).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def restored(tile: np.ndarray) -> np.ndarray:
    """Grey values 0..255 [S, S, 3] of a normalised tile."""
    return (tile.transpose(1, 2, 0) * STD + MEAN) * 255


@pytest.mark.parametrize("most", [1, 4, 6, 12])
def test_grids_and_choices_equal_the_released_ones(goldens, most):
    golden = json.loads((goldens / "internvl" / "tiles.json").read_text())[str(most)]
    assert [list(grid) for grid in grids(most)] == golden["order"]
    for width, height, columns, rows in golden["cases"]:
        assert choose_grid(width, height, 448, most) == (columns, rows), (width, height)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 12))
def test_the_chosen_grid_has_the_nearest_ratio(width, height, most):
    columns, rows = choose_grid(width, height, 448, most)
    assert 1 <= columns * rows <= most
    distance = abs(width / height - columns / rows)
    assert all(distance <= abs(width / height - c / r) for c, r in grids(most))


def test_a_square_takes_more_tiles_only_if_it_has_the_pixels():
    assert choose_grid(448, 448, 448, 4) == (1, 1)
    assert choose_grid(634, 634, 448, 4) == (2, 2)  # just above half of the 896 x 896 pixels
    assert choose_grid(633, 633, 448, 4) == (1, 1)


def test_tiles_run_row_by_row_and_a_thumbnail_follows():
    image = noise(96, 64)
    tiles = make_tiles(image, 32, 6)
    assert tiles.shape == (7, 3, 32, 32)
    assert tiles.dtype == np.float32
    pixels = np.asarray(image, np.float32)
    for i in range(6):
        row, column = divmod(i, 3)
        expected = pixels[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        assert np.abs(restored(tiles[i]) - expected).max() < 0.01
    thumbnail = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC), np.float32)
    assert np.abs(restored(tiles[6]) - thumbnail).max() < 0.01
    assert len(make_tiles(image, 32, 6, thumbnail=False)) == 6


def test_one_tile_is_the_whole_image_without_a_thumbnail():
    image = noise(50, 40)
    tiles = make_tiles(image, 28, 1)
    assert tiles.shape == (1, 3, 28, 28)
    squashed = np.asarray(image.resize((28, 28), Image.Resampling.BICUBIC), np.float32)
    assert np.abs(restored(tiles[0]) - squashed).max() < 0.01


def test_normalisation_is_imagenets():
    tile = make_tiles(Image.new("RGB", (8, 8), (0, 255, 51)), 8, 1)[0]
    assert tile[:, 0, 0] == pytest.approx([-0.485 / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225], abs=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3000, 20), (7, 13), (449, 447)])
def test_odd_sizes_give_finite_tiles(size):
    tiles = make_tiles(noise(*size), 28, 12)
    assert tiles.shape[1:] == (3, 28, 28)
    assert len(tiles) == 1 or len(tiles) <= 13
    assert np.isfinite(tiles).all()
