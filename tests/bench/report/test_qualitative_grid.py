"""The qualitative grid: which questions it shows and what it draws."""

import numpy as np
from PIL import Image

from bench.data import rle
from bench.data.dataset import ExampleDataset
from bench.report import qualitative_grid as grid
from methods.base import Example

SHAPE = (48, 64)


def block(left, width):
    mask = np.zeros(SHAPE, bool)
    mask[10:30, left : left + width] = True
    return mask


def row(reference, iou, mask=None, **more):
    mask = block(5, 20) if mask is None else mask
    return {"ref_id": reference, "sent_id": 0, "iou": iou, "mask": rle.encode(mask), "expression": "the red car",
            "box": None, "failure": None} | more  # fmt: skip


DATASET = ExampleDataset([
    Example(Image.new("RGB", SHAPE[::-1], "grey"), ("the red car",), block(5, 20), ref_id=i, image_id=i)
    for i in range(9)
])  # fmt: skip


def test_questions_are_spread_over_the_first_methods_iou():
    first = [row(i, i / 10) for i in range(9)]
    second = [row(i, 0.5) for i in range(8)]  # question 8 is not answered
    chosen = grid.choose({"a": first, "b": second}, 3)
    assert [question["a"]["ref_id"] for question in chosen] == [7, 4, 0] or [q["a"]["ref_id"] for q in chosen] == [
        7,
        3,
        0,
    ]
    assert all(question["a"]["ref_id"] == question["b"]["ref_id"] for question in chosen)
    assert len(grid.choose({"a": first}, 99)) == 9
    assert grid.choose({"a": [], "b": second}, 3) == []


def test_a_grid_has_a_column_per_method_and_a_line_per_question():
    methods = {
        "one": [row(i, i / 10, box=[5.0, 10.0, 25.0, 30.0]) for i in range(4)],
        "two": [row(i, 0.0, np.zeros(SHAPE, bool), failure="the mask was cut off after 12 tokens") for i in range(4)],
    }
    image = grid.draw_grid(methods, DATASET, 2)
    assert image.tobytes() == grid.draw_grid(methods, DATASET, 2).tobytes()
    assert image.width == 4 * (grid.CELL + grid.GAP) + grid.GAP
    assert image.height > 2 * grid.CELL * SHAPE[0] / SHAPE[1]
    assert grid.draw_grid({"one": []}, DATASET) is None


def test_an_overlay_tints_the_mask_and_greys_the_rest():
    image, mask = Image.new("RGB", SHAPE[::-1], (200, 40, 40)), block(5, 20)
    drawn = np.asarray(grid.overlay(image, mask, grid.ANSWER)).astype(int)
    assert np.ptp(drawn[~mask], axis=-1).max() == 0
    assert (drawn[10, 5] == grid.ANSWER).all()  # the outline
    assert np.ptp(drawn[20, 15]) > 50


def test_odd_boxes_do_not_stop_the_drawing():
    image, mask = Image.new("RGB", SHAPE[::-1]), np.zeros(SHAPE, bool)
    for box in ([30, 30, 10, 10], [5, 5, 5, 5], [-10, -10, 500, 500], [1.5, 2.5, 3.5, 9.5]):
        assert grid.overlay(image, mask, grid.ANSWER, box).size == image.size
