"""gRefCOCO's rules, each case by hand."""

import numpy as np
import pytest

from bench.evaluate.metrics import aggregate, score

EMPTY, FULL = np.zeros((10, 10), bool), np.ones((10, 10), bool)
HALF = np.zeros((10, 10), bool)
HALF[:5] = True


def sample(pred, gt, failure=None, **more):
    return score(pred, gt, failure=failure, no_target=not gt.any(), **more)


def test_the_four_verdicts_and_their_aggregate():
    found = aggregate([
        sample(EMPTY, EMPTY),  # true positive: IoU 1, no pixels
        sample(HALF, EMPTY),  # false negative: IoU 0, union 50
        sample(EMPTY, FULL),  # false positive: IoU 0, union 100
        sample(HALF, FULL),  # true negative: IoU 1/2, 50 of 100
        sample(FULL, FULL),  # true negative: IoU 1, 100 of 100
    ])  # fmt: skip
    assert found["ciou"] == 150 / 350
    assert found["giou"] == pytest.approx(2.5 / 5)
    assert found["n_acc"] == 0.5
    assert found["t_acc"] == pytest.approx(2 / 3)
    assert [found[f"pr@{t}"] for t in (0.7, 0.8, 0.9)] == [pytest.approx(1 / 3)] * 3


def test_no_answer_is_wrong_on_both_sides():
    failed = [sample(EMPTY, EMPTY, "out of memory"), sample(EMPTY, HALF, "out of memory")]
    assert [(s.iou, s.bf, s.bf_davis, s.biou, s.union) for s in failed] == [(0, 0, 0, 0, 0), (0, 0, 0, 0, 50)]
    assert [aggregate(failed)[name] for name in ("giou", "n_acc", "t_acc")] == [0, 0, 0]
    written = sample(EMPTY, EMPTY, "no box in the answer", answered=True)
    assert aggregate([written])["n_acc"] == written.iou == 1


def test_a_ground_truth_that_happens_to_be_empty_is_a_target():
    found = aggregate([score(EMPTY, EMPTY)])
    assert not {"n_acc", "t_acc", "pr@0.7"} & found.keys()
