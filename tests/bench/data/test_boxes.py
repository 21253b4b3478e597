"""The form that boxes have: recognised, never converted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.boxes import FORMS, PIXELS, box_iou, other_form, read_as

SIZE = (480, 640)
WRITERS = {
    "x1, y1, x2, y2": lambda x1, y1, x2, y2: (x1, y1, x2, y2),
    "x, y, width, height": lambda x1, y1, x2, y2: (x1, y1, x2 - x1, y2 - y1),
    "centre x, centre y, width, height": lambda x1, y1, x2, y2: ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1),
    "y1, x1, y2, x2": lambda x1, y1, x2, y2: (y1, x1, y2, x2),
}


def written(form, box, size=SIZE):
    layout, _, scale = form.rpartition(" in ")
    unit = {"0..1": 1, "0..1000": 1000}.get(scale)
    x, y = (1, 1) if unit is None else (unit / size[1], unit / size[0])
    x1, y1, x2, y2 = box
    return WRITERS[layout](x1 * x, y1 * y, x2 * x, y2 * y)


def some_boxes(count, seed=0):
    rng = np.random.default_rng(seed)
    corners = rng.uniform((0, 0), (440, 320), (count, 2))
    sides = rng.uniform(30, 160, (count, 2))
    return [tuple(map(float, (*corner, *(corner + side)))) for corner, side in zip(corners, sides, strict=True)]


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_read_back_and_recognised(form):
    boxes = some_boxes(20)
    for box in boxes:
        assert read_as(form, written(form, box), SIZE) == pytest.approx(box)
    found = other_form([written(form, box) for box in boxes], boxes, [SIZE] * 20)
    assert found == (None if form == PIXELS else form)


@pytest.mark.parametrize("form", [form for form in FORMS if form != PIXELS])
def test_half_of_the_boxes_in_another_form_are_found(form):
    boxes = some_boxes(20)
    assert other_form([written(form, b) if i % 2 else b for i, b in enumerate(boxes)], boxes, [SIZE] * 20) == form


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 200), st.integers(1, 60))
def test_bad_boxes_in_pixels_are_only_bad(seed, noise, count):
    """Answers near the ground truth, far from it, or of nothing at all are no other form."""
    boxes = some_boxes(count, seed)
    rng = np.random.default_rng(seed)
    wrong = [np.clip(np.array(box) + rng.normal(0, noise, 4), 0, (640, 480) * 2).tolist() for box in boxes]
    assert other_form(wrong, boxes, [SIZE] * count) is None
    assert other_form([[0.0, 0.0, 0.0, 0.0]] * count, boxes, [SIZE] * count) is None


def test_numbers_that_are_no_pixels_are_told_without_a_fit():
    truths, sizes = some_boxes(3), [SIZE] * 3
    assert other_form([[0.1, 0.1, 0.2, 0.2]] * 3, truths, sizes) == "x1, y1, x2, y2 in 0..1"
    assert other_form([[600, 800, 990, 900]] * 3, truths, sizes) == "x1, y1, x2, y2 in 0..1000"
    assert other_form([[900, 1800, 1990, 2900]] * 3, truths, sizes) == "pixels of another image size"


def test_iou_of_boxes():
    assert box_iou((0, 0, 10, 10), (0, 5, 10, 15)) == pytest.approx(1 / 3)
    for missing in (None, (10, 0, 20, 10), (5, 0, 1, 9), (0, 0, 0, 9)):  # none, beside it, inverted, without area
        assert box_iou((0, 0, 10, 10), missing) == 0
