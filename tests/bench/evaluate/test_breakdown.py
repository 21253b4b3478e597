"""Which object an answer marks, and the figures of groups of questions."""

import numpy as np
import pytest

from bench.data import rle
from bench.evaluate.breakdown import breakdown, overlap


def square(left: int, side: int = 4) -> np.ndarray:
    mask = np.zeros((8, 24), bool)
    mask[2 : 2 + side, left : left + side] = True
    return mask


OBJECTS = [square(0), square(8), square(16)]


def row(answer: np.ndarray, target: np.ndarray, image: int = 0, **facts):
    inside, union = np.count_nonzero(answer & target), np.count_nonzero(answer | target)
    return {
        "dataset": "d", "split": "val", "image_id": image, "mask": rle.encode(answer), "iou": overlap(answer, target),
        "intersection": inside, "union": union, "facts": facts,
    }  # fmt: skip


def figures(rows) -> dict[tuple[str, str], float]:
    found = breakdown(rows, lambda image: OBJECTS, 0, method="m")
    return {(record.variant, record.metric): record.value for record in found}


def test_grounding_and_drawing_make_the_giou():
    rows = [
        row(square(0), OBJECTS[0], small=False),
        row(square(10), OBJECTS[1], small=False),  # half beside it
        row(square(16), OBJECTS[0], small=True),  # another object
        row(np.zeros((8, 24), bool), OBJECTS[0], small=True),
    ]
    found = figures(rows)
    assert found["all", "right_object"] == 0.5
    assert found["all", "giou_right"] == pytest.approx((1 + 1 / 3) / 2)
    assert found["all", "giou"] == pytest.approx(found["all", "right_object"] * found["all", "giou_right"])
    assert found["small=False", "right_object"] == 1
    assert found["small=True", "right_object"] == 0
    assert ("small=True", "giou_right") not in found  # no such answer


def test_a_mask_over_two_objects_marks_the_one_that_it_covers_more():
    answer = square(0) | square(8, 3)
    assert figures([row(answer, OBJECTS[0])])["all", "right_object"] == 1
    assert figures([row(answer, OBJECTS[1])])["all", "right_object"] == 0


def test_facts_that_a_dataset_does_not_know_make_no_group():
    groups = {variant for variant, _ in figures([row(square(0), OBJECTS[0], style="refcoco", colour="red")])}
    assert groups == {"all", "style=refcoco"}


def test_an_image_without_objects_has_no_wrong_one():
    found = breakdown([row(square(1), OBJECTS[0])], lambda image: [], 0, method="m")
    assert {r.metric: r.value for r in found}["right_object"] == 1
