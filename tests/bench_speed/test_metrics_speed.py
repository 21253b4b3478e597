"""How fast the scores are: `make bench`. In an ordinary test run each function is called once, untimed."""

import numpy as np
import pytest
from scipy import ndimage

from bench.data import rle
from bench.evaluate.metrics import SampleScore, aggregate, score
from bench.evaluate.metrics.boundary import bf_score
from bench.evaluate.statistics import intervals


@pytest.fixture(scope="module")
def blobs():
    """Two large, ragged masks of 480 x 640."""
    rng = np.random.default_rng(0)
    return [ndimage.gaussian_filter(rng.standard_normal((480, 640)), 12) > 0.01 for _ in range(2)]


@pytest.fixture(scope="module")
def scores(blobs):
    """As many scores as RefCOCO val has objects, two or three to an image."""
    rng, template = np.random.default_rng(1), score(*blobs).as_dict()
    unions = rng.integers(500, 50_000, 3811)
    inter = (unions * rng.uniform(0, 1, 3811)).astype(int)
    pairs = zip(inter.tolist(), unions.tolist(), strict=True)
    return [SampleScore.from_dict(template | {"intersection": i, "union": u, "iou": i / u}) for i, u in pairs]


def test_score_of_one_sample(benchmark, blobs):
    assert benchmark(score, *blobs).union > 0


def test_bf_score_of_one_sample(benchmark, blobs):
    assert 0 < benchmark(bf_score, *blobs).f < 1


def test_run_lengths_there_and_back(benchmark, blobs):
    assert benchmark(lambda: rle.decode(rle.encode(blobs[0]))).shape == (480, 640)


def test_aggregate_of_a_split(benchmark, scores):
    assert benchmark(aggregate, scores)["n"] == 3811


def test_intervals_of_a_split(benchmark, scores):
    assert benchmark(intervals, scores, np.arange(3811) * 1500 // 3811)["ciou"].low > 0
