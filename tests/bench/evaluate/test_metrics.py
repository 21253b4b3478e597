"""Scores of single samples and their aggregates, against pycocotools and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from bench.data import rle
from bench.data.boxes import box_iou
from bench.evaluate.metrics import SampleScore, aggregate, mask_box, score, support

sides = st.integers(1, 20)
pairs = st.tuples(sides, sides).flatmap(lambda shape: st.tuples(arrays(np.bool_, shape), arrays(np.bool_, shape)))
corner = st.integers(0, 30)
boxes = st.tuples(corner, corner, st.integers(1, 30), st.integers(1, 30)).map(
    lambda b: (float(b[0]), float(b[1]), float(b[0] + b[2]), float(b[1] + b[3]))
)


def block(height, width, shape=(100, 100)):
    mask = np.zeros(shape, bool)
    mask[:height, :width] = True
    return mask


def code(mask):
    return coco.encode(np.asfortranarray(mask, np.uint8))


@settings(max_examples=100, deadline=None)
@given(pairs)
def test_counts_equal_pycocotools(pair):
    sample = score(*pair)
    assert sample.union == coco.area(coco.merge([code(mask) for mask in pair]))
    assert sample.intersection == coco.area(coco.merge([code(mask) for mask in pair], intersect=True))
    assert sample.gt_area == coco.area(code(pair[1]))
    if sample.union:
        assert sample.iou == coco.iou([code(pair[0])], [code(pair[1])], [0])[0, 0]


@pytest.mark.parametrize("fill", ["empty", "full", "dot"])
def test_special_masks_equal_pycocotools(fill):
    mask = np.full((37, 53), fill == "full")
    mask[5, 7] |= fill == "dot"
    other = block(10, 10, (37, 53))
    sample = score(mask, other)
    assert sample.iou == coco.iou([code(mask)], [code(other)], [0])[0, 0]


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_run_lengths_come_back(pair):
    assert all(np.array_equal(rle.decode(rle.encode(mask)), mask) for mask in pair)


def test_short_run_lengths_are_refused():
    with pytest.raises(ValueError, match=r"RLE|run lengths"):
        rle.decode({"size": [4, 4], "counts": "ZZ"})
    with pytest.raises(ValueError, match="character outside"):  # pycocotools would read past its memory
        rle.decode({"size": [4, 4], "counts": "~~~~"})
    assert rle.decode({"size": [0, 4], "counts": ""}).shape == (0, 4)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_symmetry_and_transpose(pair):
    forth, back, turned = score(*pair), score(*pair[::-1]), score(pair[0].T.copy(), pair[1].T.copy())
    assert (forth.intersection, forth.union, forth.iou) == (back.intersection, back.union, back.iou)
    assert (forth.box_iou_mask, forth.biou) == (back.box_iou_mask, back.biou)
    assert (forth.intersection, forth.union, forth.bf, forth.box_iou_mask) == (
        turned.intersection,
        turned.union,
        turned.bf,
        turned.box_iou_mask,
    )


def test_ignored_pixels_count_nowhere():
    gt, pred, ignore = block(20, 20), block(20, 30), np.zeros((100, 100), bool)
    ignore[:, 20:] = True
    sample = score(pred, gt, ignore)
    assert (sample.intersection, sample.union, sample.iou) == (400, 400, 1.0)
    assert sample.gt_area_fraction == 0.04
    assert (sample.bf, sample.bf_davis, sample.biou) == (1.0, 1.0, 1.0)
    everything = score(pred, gt, np.ones_like(gt))
    assert (everything.union, everything.iou) == (0, 1.0)


def test_boxes_have_exclusive_ends():
    dot = np.zeros((10, 10), bool)
    dot[3, 4] = True
    assert mask_box(dot) == (4.0, 3.0, 5.0, 4.0)
    assert mask_box(np.zeros((3, 3), bool)) is None
    assert mask_box(np.ones((3, 5), bool)) == (0.0, 0.0, 5.0, 3.0)


@settings(max_examples=80, deadline=None)
@given(boxes, boxes)
def test_box_iou_equals_pycocotools(a, b):
    xywh = [np.array([[x1, y1, x2 - x1, y2 - y1]]) for x1, y1, x2, y2 in (a, b)]
    assert box_iou(a, b) == pytest.approx(coco.iou(xywh[0], xywh[1], [0])[0, 0], abs=1e-12)


def test_box_iou_of_no_box():
    unit = (0.0, 0.0, 1.0, 1.0)
    assert (box_iou(None, unit), box_iou(unit, None), box_iou(None, None)) == (0, 0, 0)
    assert (box_iou((1.0, 1.0, 0.0, 0.0), unit), box_iou((0.5, 0.5, 0.5, 0.9), unit)) == (0, 0)


def test_missing_box_is_a_miss_and_an_unasked_one_is_not_counted():
    gt = block(20, 20)
    missing, unasked, right = (
        score(gt, gt, box_text=None),
        score(gt, gt, box_asked=False),
        score(gt, gt, box_text=(0.0, 0.0, 20.0, 20.0)),
    )
    assert aggregate([missing, right])["acc@0.9"] == 0.5
    assert aggregate([unasked, right])["acc@0.9"] == 1.0
    assert support([unasked, right])["acc@0.9"] == 1
    assert math.isnan(aggregate([unasked])["acc@0.9"])
    assert aggregate([unasked])["mask_acc@0.9"] == 1.0


def test_the_annotated_box_comes_before_the_box_of_the_mask():
    gt = block(20, 20)
    assert score(gt, gt, box_gt=(0.0, 0.0, 40.0, 20.0)).box_iou_mask == 0.5


def test_thresholds_include_their_value():
    gt = block(10, 10)
    assert aggregate([score(gt, gt, box_text=(0.0, 0.0, 10.0, 20.0))])["acc@0.5"] == 1.0


def test_aggregates_by_hand():
    samples = [
        score(block(10, 10), block(10, 20)),  # IoU 1/2, truth 200 px: small, COCO small
        score(block(40, 50), block(40, 40), failure=None),  # IoU 4/5, truth 1600 px: COCO medium
        score(np.zeros((100, 100), bool), np.ones((100, 100), bool), failure="no mask"),  # 0, 10000 px: COCO large
        score(block(20, 20), block(20, 20)),  # 1, 400 px: exactly 4 %, so not small
        score(np.zeros((100, 100), bool), np.zeros((100, 100), bool)),  # both empty: 1, in no bucket
    ]
    figures = aggregate(samples)
    assert figures["giou"] == pytest.approx((0.5 + 0.8 + 0 + 1 + 1) / 5)
    assert figures["ciou"] == (100 + 1600 + 400) / (200 + 2000 + 10000 + 400)
    assert (figures["small_n"], figures["small_ciou"]) == (1, 0.5)
    assert (figures["failures"], figures["n"]) == (1, 5)
    assert (figures["ciou@small"], figures["ciou@medium"], figures["ciou@large"]) == (500 / 600, 0.8, 0.0)
    assert figures["giou@small"] == 0.75
    assert (support(samples)["giou@small"], support(samples)["giou@medium"], support(samples)["ciou"]) == (2, 1, 5)


def test_pixel_sums_do_not_overflow():
    one = score(np.ones((3, 3), bool), np.ones((3, 3), bool))
    huge = SampleScore.from_dict(one.as_dict() | {"intersection": 2**40, "union": 2**41})
    assert aggregate([huge] * 5)["ciou"] == 0.5


def test_no_samples_give_no_figures():
    figures = aggregate([])
    assert figures["n"] == 0
    assert math.isnan(figures["ciou"])


def test_a_score_survives_the_way_through_a_row():
    sample = score(block(9, 9), block(10, 10), box_text=(0.0, 0.0, 9.0, 9.0), failure="cut off")
    row = sample.as_dict() | {"box_mask": list(sample.box_mask), "dataset": "other keys are left aside"}
    assert SampleScore.from_dict(row) == sample


@pytest.mark.parametrize("wrong", [np.zeros((3, 4), bool), np.zeros((4, 4)), np.zeros((4, 4, 1), bool)])
def test_unfitting_masks_are_refused(wrong):
    with pytest.raises(ValueError, match="bool"):
        score(wrong, np.zeros((4, 4), bool))
