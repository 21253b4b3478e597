"""The shape test: its masks are what their names say, and a perfect tokenizer passes it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from bench.evaluate.reconstruction import shape_ious, shape_records
from bench.evaluate.shapes import KINDS, shape_test
from methods.base import Prediction


@pytest.fixture(scope="module")
def shapes():
    return shape_test(8)


def of(shapes, kind):
    return [shape.mask for shape in shapes if shape.kind == kind]


def sides(mask):
    return mask.any(1).sum(), mask.any(0).sum()


def test_the_same_masks_whatever_their_number(shapes):
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(shapes, shape_test(2), strict=False))
    assert [shape.kind for shape in shapes[:6]] == list(KINDS)


def test_kinds_are_what_they_say(shapes):
    assert all(height > 2.5 * width for height, width in map(sides, of(shapes, "tall")))
    assert all(width > 2.5 * height for height, width in map(sides, of(shapes, "wide")))
    for mask in of(shapes, "corner"):
        assert (mask[0].any() or mask[-1].any()) and (mask[:, 0].any() or mask[:, -1].any())
    backgrounds = [ndimage.label(~np.pad(mask, 1))[1] for mask in of(shapes, "ring")]
    assert backgrounds.count(2) >= 7  # the hole of a bumpy one may break through
    assert all(0.002 < mask.mean() < 0.02 for mask in of(shapes, "tiny"))
    for mask in of(shapes, "thin"):
        assert 2 * ndimage.distance_transform_edt(mask).max() < 0.1 * len(mask) and max(sides(mask)) > 60


def test_ious_of_a_tokenizer(himtok, shapes, monkeypatch):
    monkeypatch.setattr(
        "bench.evaluate.reconstruction.round_trip",
        lambda method, examples, tokens: [Prediction(e.mask) for e in examples],
    )
    found = shape_ious(himtok.mask_tokenizer, shapes)
    assert set(found) == {*KINDS, "all", "resize"} and all((found[kind] == 1).all() for kind in KINDS)
    assert len(found["all"]) == 48 and 0.9 < found["resize"].mean() < 1
    records = shape_records(found, method="himtok")
    assert {r.split: r.n for r in records} == {kind: 8 for kind in KINDS} | {"all": 48, "resize": 48}
    assert all(r.low <= r.value <= r.high and r.dataset == "shapes" for r in records)
