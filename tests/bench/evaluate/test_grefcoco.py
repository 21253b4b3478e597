"""gRefCOCO's rules, each case by hand."""

import math

import numpy as np
import pytest

from bench.evaluate.grefcoco import aggregate_generalised, score_generalised

EMPTY, FULL = np.zeros((10, 10), bool), np.ones((10, 10), bool)
HALF = np.zeros((10, 10), bool)
HALF[:5] = True


def test_the_four_verdicts_and_their_figures():
    samples = [
        score_generalised(EMPTY, EMPTY),  # true positive: IoU 1, no pixels
        score_generalised(HALF, EMPTY),  # false negative: IoU 0, union 50
        score_generalised(EMPTY, FULL),  # false positive: IoU 0, union 100
        score_generalised(HALF, FULL),  # true negative: IoU 1/2, 50 of 100
        score_generalised(FULL, FULL),  # true negative: IoU 1, 100 of 100
    ]
    figures = aggregate_generalised(samples)
    assert figures["ciou"] == 150 / 350
    assert figures["giou"] == pytest.approx(2.5 / 5)
    assert figures["n_acc"] == 0.5
    assert figures["t_acc"] == pytest.approx(2 / 3)
    assert [figures[f"pr@{t}"] for t in (0.7, 0.8, 0.9)] == [pytest.approx(1 / 3)] * 3
    assert (figures["n"], figures["no_target_n"]) == (5, 2)


def test_a_spoken_refusal_outweighs_the_mask():
    assert score_generalised(HALF, FULL, refused=True).intersection == 0
    assert score_generalised(HALF, EMPTY, refused=True).iou == 1
    assert score_generalised(EMPTY, EMPTY, refused=False).iou == 0
    assert score_generalised(HALF, EMPTY, refused=True).union == 0


def test_nothing_of_a_kind_gives_nan():
    assert math.isnan(aggregate_generalised([score_generalised(FULL, FULL)])["n_acc"])
