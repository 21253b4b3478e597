"""Which object an answer marks, and the figures of groups of questions."""

import numpy as np
import pytest

from bench.data import rle
from bench.evaluate.breakdown import breakdown, overlap
from bench.records import describe


def square(left: int, side: int = 4) -> np.ndarray:
    mask = np.zeros((8, 24), bool)
    mask[2 : 2 + side, left : left + side] = True
    return mask


OBJECTS = [square(0), square(8), square(16)]


def row(answer: np.ndarray, target: np.ndarray, image: int = 0, **facts):
    inside, union = np.count_nonzero(answer & target), np.count_nonzero(answer | target)
    return {
        "dataset": "d", "split": "val", "protocol": "per_expression", "image_id": image, "mask": rle.encode(answer),
        "iou": overlap(answer, target),
        "intersection": inside, "union": union, "facts": facts,
    }  # fmt: skip


def figures(rows) -> dict[tuple[str, str], float]:
    found = breakdown(rows, lambda image: OBJECTS, 0, method="m")
    return {(describe(record.group) or "all", record.metric): record.value for record in found}


def test_localization_and_overlap_make_the_giou():
    rows = [
        row(square(0), OBJECTS[0], small=False),
        row(square(10), OBJECTS[1], small=False),  # half beside it
        row(square(16), OBJECTS[0], small=True),  # another object
        row(np.zeros((8, 24), bool), OBJECTS[0], small=True),
    ]
    found = figures(rows)
    assert found["all", "localization_accuracy"] == 0.5
    assert found["all", "giou_localized"] == pytest.approx((1 + 1 / 3) / 2)
    assert found["all", "giou"] == pytest.approx(found["all", "localization_accuracy"] * found["all", "giou_localized"])
    assert found["small=False", "localization_accuracy"] == 1
    assert found["small=True", "localization_accuracy"] == 0
    assert ("small=True", "giou_localized") not in found  # no such answer


def test_a_mask_over_two_objects_marks_the_one_that_it_covers_more():
    answer = square(0) | square(8, 3)
    assert figures([row(answer, OBJECTS[0])])["all", "localization_accuracy"] == 1
    assert figures([row(answer, OBJECTS[1])])["all", "localization_accuracy"] == 0


def test_facts_that_a_dataset_does_not_know_make_no_group():
    groups = {group for group, _ in figures([row(square(0), OBJECTS[0], style="refcoco", colour="red")])}
    assert groups == {"all", "style=refcoco"}


def test_an_image_without_objects_has_no_wrong_one():
    found = breakdown([row(square(1), OBJECTS[0])], lambda image: [], 0, method="m")
    assert {r.metric: r.value for r in found}["localization_accuracy"] == 1
