"""Boundary measures against brute force, closed forms and their symmetries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from bench.evaluate.metrics import boundary
from bench.evaluate.metrics.boundary import bf_davis, bf_score, boundary_iou, mask_box

sides = st.integers(1, 14)
masks = st.tuples(sides, sides).flatmap(lambda shape: arrays(np.bool_, shape))
pairs = st.tuples(sides, sides).flatmap(lambda shape: st.tuples(arrays(np.bool_, shape), arrays(np.bool_, shape)))
tolerances = st.sampled_from([0.0075, 0.05, 0.1, 0.2, 0.35])


def rectangle(top, left, height, width, shape=(480, 640)):
    mask = np.zeros(shape, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def boundary_points(mask):
    """Pixels with background or the image's edge among the four neighbours, one at a time."""
    height, width = mask.shape
    points = []
    for y, x in zip(*np.nonzero(mask), strict=True):
        around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        if any(not (0 <= v < height and 0 <= u < width) or not mask[v, u] for v, u in around):
            points.append((y, x))
    return np.array(points, int).reshape(-1, 2)


def brute_force(pred, gt, tolerance, strict):
    """The BF-score by all pairs of boundary pixels."""
    a, b = boundary_points(pred), boundary_points(gt)
    if not len(a) or not len(b):
        return float(len(a) == len(b))
    squared = ((a[:, None] - b[None]) ** 2).sum(-1)
    theta = tolerance * np.hypot(*pred.shape)
    close = squared < theta**2 - 1e-9 if strict else squared <= theta**2 + 1e-9
    precision, recall = close.any(1).mean(), close.any(0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@settings(max_examples=150, deadline=None)
@given(pairs, tolerances, st.booleans())
def test_bf_is_the_brute_force_answer(pair, tolerance, strict):
    assert bf_score(*pair, tolerance, strict).f == pytest.approx(brute_force(*pair, tolerance, strict), abs=1e-12)


@pytest.mark.parametrize("shape", [(40, 60), (480, 640), (150, 900)])
@pytest.mark.parametrize("strict", [True, False])
def test_disks_and_distances_give_equal_scores(shape, strict, monkeypatch):
    """To the last digit, whatever the order in memory."""
    rng = np.random.default_rng(sum(shape))
    fields = (ndimage.gaussian_filter(rng.standard_normal(shape), 4) for _ in range(2))
    pred, gt = (np.asfortranarray(field > 0.01) if rng.random() < 0.5 else field > 0.01 for field in fields)
    found = []
    for limit in (boundary.DISK2, -1, 10**6):
        monkeypatch.setattr(boundary, "DISK2", limit)
        found.append((bf_score(pred, gt, 0.0075, strict), bf_score(pred, gt, 0.03, strict), bf_davis(pred, gt)))
    assert found[0] == found[1] == found[2]


@settings(max_examples=100, deadline=None)
@given(masks, st.booleans())
def test_the_box_around_a_mask(mask, turned):
    rows, columns = np.nonzero(mask)
    expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else None
    assert mask_box(np.asfortranarray(mask) if turned else mask) == expected


@settings(max_examples=60, deadline=None)
@given(pairs, tolerances)
def test_swapping_the_masks_swaps_precision_and_recall(pair, tolerance):
    forth, back = bf_score(*pair, tolerance), bf_score(*pair[::-1], tolerance)
    assert (forth.f, forth.precision, forth.recall) == (pytest.approx(back.f), back.recall, back.precision)
    assert bf_davis(*pair) == pytest.approx(bf_davis(*pair[::-1]))
    assert boundary_iou(*pair) == boundary_iou(*pair[::-1])


@settings(max_examples=60, deadline=None)
@given(pairs, tolerances)
def test_transposing_changes_nothing(pair, tolerance):
    turned = [mask.T.copy() for mask in pair]
    assert bf_score(*pair, tolerance) == bf_score(*turned, tolerance)
    assert bf_davis(*pair) == bf_davis(*turned)
    assert boundary_iou(*pair) == boundary_iou(*turned)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_a_wider_tolerance_never_scores_less(pair):
    scores = [bf_score(*pair, tolerance).f for tolerance in (0.0075, 0.03, 0.1, 0.3, 1.5)]
    assert scores == sorted(scores)
    for tolerance in (0.0075, 0.1, 0.2):
        assert bf_score(*pair, tolerance).f <= bf_score(*pair, tolerance, strict=False).f


@settings(max_examples=60, deadline=None)
@given(masks)
def test_a_mask_agrees_with_itself(mask):
    assert bf_score(mask, mask).f == 1
    assert bf_davis(mask, mask) == 1
    assert boundary_iou(mask, mask) == 1


@settings(max_examples=60, deadline=None)
@given(pairs, st.integers(0, 9), st.integers(0, 9))
def test_background_beside_both_masks_leaves_matches_alone(pair, top, left):
    """The crop: equal counts of matched pixels when the same masks lie in a larger frame, away from its edges."""
    framed = [np.pad(mask, ((top + 1, 30 - top), (left + 1, 30 - left))) for mask in pair]
    moved = [np.pad(mask, ((30, 1), (30, 1))) for mask in pair]
    assert bf_score(*framed, 0.05) == bf_score(*moved, 0.05)
    assert bf_davis(*framed, 0.05) == bf_davis(*moved, 0.05)
    assert boundary_iou(*framed) == boundary_iou(*moved)


@pytest.mark.parametrize(("shift", "strict", "loose"), [(5, 1.0, 1.0), (6, 0.5669642857142857, 1.0)])
def test_a_shift_at_the_tolerance_tells_strict_from_loose(shift, strict, loose):
    gt, pred = rectangle(100, 150, 200, 250), rectangle(100, 150 + shift, 200, 250)  # theta is 6 px at 640 x 480
    assert bf_score(pred, gt).f == pytest.approx(strict, abs=1e-12)
    assert bf_score(pred, gt, strict=False).f == pytest.approx(loose, abs=1e-12)


def test_the_edge_of_the_image_and_of_a_hole_are_boundary():
    full = np.ones((480, 640), bool)
    inner = rectangle(3, 3, 474, 634)
    assert bf_score(full, inner).f == 1  # 3 px apart all around, within 6
    ring = rectangle(100, 150, 200, 250) & ~rectangle(150, 200, 100, 150)
    filled = rectangle(100, 150, 200, 250)
    score = bf_score(filled, ring)
    outer, hole = 2 * (200 + 250) - 4, 2 * (100 + 150)  # the hole's boundary lies in the mask around it
    assert (score.precision, score.recall) == (1.0, pytest.approx(outer / (outer + hole)))


@pytest.mark.parametrize("measure", [lambda a, b: bf_score(a, b).f, bf_davis, boundary_iou])
def test_empty_masks(measure):
    empty, some = np.zeros((40, 50), bool), rectangle(5, 6, 10, 12, (40, 50))
    assert (measure(empty, empty), measure(empty, some), measure(some, empty)) == (1, 0, 0)


def test_distances_equal_scipys_on_a_whole_frame():
    rng = np.random.default_rng(3)
    blobs = [ndimage.gaussian_filter(rng.standard_normal((333, 500)), 9) > 0.02 for _ in range(2)]
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in blobs]
    theta = 0.0075 * np.hypot(333, 500)
    precision, recall = ((ndimage.distance_transform_edt(~edges[1 - i])[edges[i]] < theta).mean() for i in range(2))
    score = bf_score(*blobs)
    assert (score.precision, score.recall) == (pytest.approx(precision, abs=1e-12), pytest.approx(recall, abs=1e-12))


def test_boundary_iou_is_the_iou_of_eroded_bands():
    rng = np.random.default_rng(4)
    blobs = [ndimage.gaussian_filter(rng.standard_normal((200, 300)), 12) > 0 for _ in range(2)]
    depth = round(0.02 * np.hypot(200, 300))
    bands = [mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=depth) for mask in blobs]
    expected = (bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum()
    assert boundary_iou(*blobs) == pytest.approx(expected, abs=1e-12)
