"""How fast the scores are: `make bench`. In an ordinary test run each function is called once, untimed."""

import numpy as np
import pytest
from scipy import ndimage

from bench.data import rle
from bench.data.dataset import ExampleDataset
from bench.evaluate.metrics import SampleScore, aggregate, score
from bench.evaluate.metrics.boundary import bf_davis, bf_score
from bench.evaluate.predictions import line
from bench.evaluate.scoring import score_predictions
from bench.evaluate.statistics import intervals
from methods.base import Example, Prediction
from methods.files import write_lines


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


def test_bf_score_of_one_sample_by_whole_distance_maps(benchmark, blobs):
    """The peer of the one before: the definition on the whole frame, in scipy."""

    def naive(pred, gt):
        cross, theta = ndimage.generate_binary_structure(2, 1), 0.0075 * np.hypot(*pred.shape)
        edges = [mask & ~ndimage.binary_erosion(mask, cross) for mask in (pred, gt)]
        shares = [(ndimage.distance_transform_edt(~b)[a] < theta).mean() for a, b in (edges, edges[::-1])]
        return 2 * shares[0] * shares[1] / sum(shares)

    assert benchmark(naive, *blobs) == pytest.approx(bf_score(*blobs).f, abs=1e-12)


def test_davis_f_of_one_sample(benchmark, blobs):
    assert 0 < benchmark(bf_davis, *blobs) < 1


def test_davis_f_of_one_sample_by_its_definition(benchmark, blobs):
    """The peer of the one before: both boundaries of the whole frame dilated with the disk, in scipy."""

    def naive(pred, gt):
        reach = int(np.ceil(0.008 * np.hypot(*pred.shape)))
        y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
        edges = []
        for mask in (pred, gt):
            padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
            east, south, both = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
            edges.append((mask ^ east) | (mask ^ south) | (mask ^ both))
        near = [ndimage.binary_dilation(edge, x**2 + y**2 <= reach**2) for edge in edges]
        precision, recall = (edges[0] & near[1]).sum() / edges[0].sum(), (edges[1] & near[0]).sum() / edges[1].sum()
        return 2 * precision * recall / (precision + recall)

    assert benchmark.pedantic(naive, blobs, rounds=3) == pytest.approx(bf_davis(*blobs), abs=1e-12)


def test_scores_of_a_file(benchmark, blobs, tmp_path):
    """Eight predictions of 480 x 640 from their run lengths to rows of scores, two to a referent."""
    small = np.zeros((480, 640), bool)
    small[100:260, 200:420] = blobs[0][100:260, 200:420]
    examples = [Example(tmp_path / "a.png", ("it", "that"), small, image_id=0, ref_id=i) for i in range(4)]
    rows = [
        line(example, Prediction(small & blobs[1]), "per_expression", k, (text,))
        for example in examples for k, text in enumerate(example.expressions)
    ]  # fmt: skip
    write_lines(tmp_path / "p.jsonl", rows)
    found = benchmark(score_predictions, tmp_path / "p.jsonl", ExampleDataset(examples, ""))
    assert len(found) == 8 and 0 < found[0]["bf"] < 1


def test_run_lengths_there_and_back(benchmark, blobs):
    assert benchmark(lambda: rle.decode(rle.encode(blobs[0]))).shape == (480, 640)


def test_aggregate_of_a_split(benchmark, scores):
    assert benchmark(aggregate, scores)["n"] == 3811


def test_intervals_of_a_split(benchmark, scores):
    assert benchmark(intervals, scores, np.arange(3811) * 1500 // 3811)["ciou"].low > 0
