"""The bootstrap over images, against SciPy and against its own promise of coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from bench.evaluate.metrics import SampleScore, aggregate, score
from bench.evaluate.statistics import (
    differences,
    holm,
    intervals,
    ratio_intervals,
    training_differences,
    training_intervals,
)

TEMPLATE = score(np.ones((3, 3), bool), np.ones((3, 3), bool))


def sample(intersection, union):
    return SampleScore.from_dict(
        TEMPLATE.as_dict() | {"intersection": int(intersection), "union": int(union), "iou": intersection / union}
    )


def simulated(rng, images=60, each=3, gain=0.0):
    """Scores of `each` expressions per image; images differ in difficulty."""
    scores, names = [], []
    for image in range(images):
        level = rng.uniform(0.2, 0.8)
        for _ in range(each):
            union = int(rng.integers(200, 2000))
            scores.append(sample(round(union * float(np.clip(level + gain + rng.normal(0, 0.05), 0, 1))), union))
            names.append(f"image {image}")
    return scores, names


def test_values_are_the_aggregates_and_lie_inside():
    scores, names = simulated(np.random.default_rng(0))
    figures, found = aggregate(scores), intervals(scores, names)
    for name, interval in found.items():
        if math.isnan(figures[name]):
            assert math.isnan(interval.low)
            continue
        assert interval.value == figures[name]
        assert interval.low <= interval.value <= interval.high


def test_the_same_seed_gives_the_same_interval():
    scores, names = simulated(np.random.default_rng(1))
    assert intervals(scores, names)["ciou"] == intervals(scores, names)["ciou"]
    assert intervals(scores, names, seed=1)["ciou"] != intervals(scores, names)["ciou"]


def test_agrees_with_scipy_when_every_image_has_one_sample():
    rng = np.random.default_rng(2)
    union = rng.integers(500, 1500, 40)
    inter = (union * rng.uniform(0, 1, 40)).astype(int)
    ours = intervals([sample(*pair) for pair in zip(inter, union, strict=True)], range(40), resamples=20000)["ciou"]
    theirs = stats.bootstrap(
        (inter, union),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        n_resamples=20000,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)


def test_samples_of_one_image_move_together():
    scores, names = simulated(np.random.default_rng(4), images=100, each=4)
    clustered, single = intervals(scores, names)["ciou"], intervals(scores, range(len(scores)))["ciou"]
    assert clustered.high - clustered.low > 1.4 * (single.high - single.low)


def test_coverage():
    """The 95 % interval holds the true mean in 95 % of experiments, give or take what 300 of them can tell."""
    rng, hits = np.random.default_rng(5), 0
    for trial in range(300):
        level = np.repeat(rng.normal(0.5, 0.1, 50), 3)
        values = level + rng.normal(0, 0.05, 150)
        interval = ratio_intervals({"mean": (values, np.ones(150))}, np.repeat(np.arange(50), 3), trial, 400)["mean"]
        hits += interval.low <= 0.5 <= interval.high
    assert 0.90 <= hits / 300 <= 0.985


def test_pairing_narrows_the_difference():
    rng = np.random.default_rng(6)
    first, names = simulated(rng)
    second = [sample(round(s.intersection * 0.95), s.union) for s in first]
    difference = differences(first, second, names)["ciou"]
    assert difference.value == pytest.approx(aggregate(first)["ciou"] - aggregate(second)["ciou"])
    assert 0 < difference.low < difference.value < difference.high
    assert difference.p < 0.002
    whole = intervals(first, names)["ciou"]
    assert difference.high - difference.low < 0.3 * (whole.high - whole.low)
    back = differences(second, first, names)["ciou"]
    assert (back.low, back.high) == (pytest.approx(-difference.high), pytest.approx(-difference.low))
    assert differences(first, first, names)["ciou"].p == 1.0


def test_pairing_needs_equal_lengths():
    scores, names = simulated(np.random.default_rng(7), images=3)
    with pytest.raises(ValueError, match="equal lengths"):
        differences(scores, scores[1:], names)


def test_trainings_are_resampled_too():
    """Normal levels of trainings and of images: the interval of the mean must be as wide as both make it, with the
    factor (S - 1) / S that a bootstrap of S trainings has for their variance."""
    rng, trainings, images = np.random.default_rng(8), 6, 400
    levels, common = rng.normal(0, 0.05, trainings), rng.normal(0.5, 0.2, images)
    tables = [{"mean": (common + level, np.ones(images))} for level in levels]
    found = training_intervals(tables, range(images), 0, 4000)["mean"]
    assert found.value == pytest.approx(common.mean() + levels.mean())
    spread = math.sqrt(common.var() / images + levels.var() / trainings)
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    alone = training_intervals(tables[:1], range(images), 0, 4000)["mean"]
    assert alone == ratio_intervals(tables[0], range(images), 0, 4000)["mean"]


def test_a_difference_between_trainings_pairs_them_by_image():
    """Images that are hard for all do not widen it, trainings that differ in the difference do."""
    rng, images = np.random.default_rng(9), 300
    common = rng.normal(0.5, 0.2, images)
    same = [({"mean": (common + 0.1, np.ones(images))}, {"mean": (common, np.ones(images))})] * 3
    found = training_differences(same, range(images))["mean"]
    assert (found.low, found.high) == (pytest.approx(0.1), pytest.approx(0.1))
    apart = [({"mean": (common + gain, np.ones(images))}, same[0][1]) for gain in (-0.1, 0.1, 0.3)]
    found = training_differences(apart, range(images))["mean"]
    assert found.value == pytest.approx(0.1) and found.low == pytest.approx(-0.1) and found.high == pytest.approx(0.3)


def test_one_image_has_no_interval():
    interval = intervals([sample(1, 2), sample(1, 3)], ["a", "a"])["giou"]
    assert interval.value == pytest.approx(5 / 12)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert holm({"x": 0.7, "y": 0.8}) == {"x": 1.0, "y": 1.0}
    assert holm({}) == {}
