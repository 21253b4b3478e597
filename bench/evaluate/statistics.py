"""How sure a figure is: the bootstrap over images and trainings, differences of two methods, and Holm's correction.

Several expressions share one image, so samples are not independent, and cIoU is a ratio of sums: images are drawn again
with replacement and the whole ratio is computed again. Every metric has the form sum(a) / sum(b), or is the mean of
such ratios over classes (`metrics.terms`), so all resamples of all metrics are one matrix product of draw counts with
per-image sums.

Where a model was trained several times with other seeds, the figure is the mean over the trainings, and a resample
draws trainings and images, each with replacement: all trainings answer about the same images, so the two are crossed,
not nested (Owen and Eckles, "Bootstrapping data arrays of arbitrary order", 2012). With few trainings such an interval
is too narrow.

Legend: N samples, C images (clusters), M metrics, R resamples, S trainings.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.evaluate.metrics import SampleScore, terms
from bench.evaluate.metrics.registry import Columns, value_of

RESAMPLES = 2000
LEVEL = 0.95
Terms = Mapping[str, Columns]


@dataclass(frozen=True)
class Interval:
    """A figure and its percentile interval; NaN bounds when there are fewer than two images to resample."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """First minus second, on the same samples, with the two-sided bootstrap p-value of "no difference"."""

    p: float


def intervals(
    scores: Sequence[SampleScore], images: Sequence[Hashable], seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """The interval of every aggregate; `images` names the image of each sample."""
    return ratio_intervals(terms(scores), images, seed, resamples)


def ratio_intervals(
    table: Terms, images: Sequence[Hashable], seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """The same for any table of name -> (numerators, denominators), both [N], or [N, C] for a mean over classes."""
    return training_intervals([table], images, seed, resamples)


def training_intervals(
    trainings: Sequence[Terms], images: Sequence[Hashable], seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """Means over trainings, whose tables are of the same samples in the same order; of the names that all have."""
    names = _common(trainings)
    values, draws = _over_trainings(trainings, names, images, seed, resamples)
    bounds = _bounds(draws)
    return {name: Interval(values[m], *bounds[m]) for m, name in enumerate(names)}


def differences(
    first: Sequence[SampleScore],
    second: Sequence[SampleScore],
    images: Sequence[Hashable],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Difference]:
    """Paired differences, first minus second, of two methods' scores of the same samples in the same order."""
    if not len(first) == len(second) == len(images):
        raise ValueError(f"Paired scores need equal lengths, got {len(first)}, {len(second)}, {len(images)} images.")
    return training_differences([(terms(first), terms(second))], images, seed, resamples)


def training_differences(
    pairs: Sequence[tuple[Terms, Terms]], images: Sequence[Hashable], seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Difference]:
    """Means over trainings of paired differences, first minus second; a pair for each, both sides of it of one seed."""
    firsts, seconds = ([pair[side] for pair in pairs] for side in (0, 1))
    names = _common([*firsts, *seconds])
    value_a, draws_a = _over_trainings(firsts, names, images, seed, resamples)
    value_b, draws_b = _over_trainings(seconds, names, images, seed, resamples)
    gaps = draws_a - draws_b
    bounds = _bounds(gaps)
    return {
        name: Difference(value_a[m] - value_b[m], *bounds[m], _two_sided(gaps[:, m])) for m, name in enumerate(names)
    }


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction: adjusted p-values that bound the chance of any false alarm in the family."""
    ordered = sorted(p_values, key=lambda name: p_values[name])
    adjusted, running = {}, 0.0
    for rank, name in enumerate(ordered):
        running = max(running, min(1.0, (len(ordered) - rank) * p_values[name]))
        adjusted[name] = running
    return {name: adjusted[name] for name in p_values}


def _common(tables: Sequence[Terms]) -> list[str]:
    """The names that all tables have, in the order of the first."""
    return [name for name in tables[0] if all(name in table for table in tables)]


def _over_trainings(
    tables: Sequence[Terms], names: Sequence[str], images: Sequence[Hashable], seed: int, resamples: int
) -> tuple[list[float], np.ndarray]:
    """The means over trainings [M] and their resamples [R, M]. Images and trainings are drawn alike for equal seeds and
    numbers of them, so that two sides are resampled in step."""
    found = [_resampled({name: table[name] for name in names}, images, seed, resamples) for table in tables]
    if len(tables) == 1:
        return found[0]
    picked = np.random.default_rng([seed, len(tables)]).integers(0, len(tables), (resamples, len(tables)))
    draws = np.stack([each for _, each in found])[picked, np.arange(resamples)[:, None]].mean(1)
    return np.mean([values for values, _ in found], axis=0).tolist(), draws


def _resampled(table: Terms, images: Sequence[Hashable], seed: int, resamples: int) -> tuple[list[float], np.ndarray]:
    """The figures [M] and their resamples [R, M]; NaN where a denominator is 0."""
    tops, belows = (np.column_stack([pair[half] for pair in table.values()]).astype(np.float64) for half in (0, 1))
    values = [value_of(*pair) for pair in table.values()]
    index = {name: c for c, name in enumerate(dict.fromkeys(images))}
    cluster = np.array([index[name] for name in images], np.intp)
    if len(index) < 2:
        return values, np.full((resamples, len(table)), np.nan)
    counts = _draw_counts(len(index), seed, resamples)
    sums = [counts @ _per_cluster(side, cluster, len(index)) for side in (tops, belows)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return values, _mean_over_classes(np.where(sums[1] > 0, sums[0] / sums[1], np.nan), table)


def _mean_over_classes(ratios: np.ndarray, table: Terms) -> np.ndarray:
    """Ratios of every column [R, all columns] -> of every metric [R, M]; a class that a resample lacks is left out."""
    widths = [1 if top.ndim == 1 else top.shape[1] for top, _ in table.values()]
    if max(widths, default=1) == 1:
        return ratios
    parts = np.split(ratios, np.cumsum(widths)[:-1], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of resamples in which no class is left
        return np.stack([np.nanmean(part, axis=1) for part in parts], 1)


def _per_cluster(values: np.ndarray, cluster: np.ndarray, clusters: int) -> np.ndarray:
    """Sum values [N, M] by cluster index [N] -> [C, M]."""
    sums = np.zeros((clusters, values.shape[1]))
    np.add.at(sums, cluster, values)
    return sums


def _draw_counts(clusters: int, seed: int, resamples: int) -> np.ndarray:
    """How often each cluster is drawn in each resample: float [R, C], rows sum to C."""
    draws = np.random.default_rng(seed).integers(0, clusters, (resamples, clusters))
    flat = draws + clusters * np.arange(resamples)[:, None]
    return np.bincount(flat.ravel(), minlength=resamples * clusters).reshape(resamples, clusters).astype(np.float64)


def _bounds(draws: np.ndarray) -> list[tuple[float, float]]:
    """The percentile interval of each column of draws [R, M]; NaN where it has no finite draw."""
    tail = (1 - LEVEL) / 2
    bounds = []
    for column in draws.T:
        finite = column[np.isfinite(column)]
        low, high = np.quantile(finite, (tail, 1 - tail)) if finite.size else (np.nan, np.nan)
        bounds.append((float(low), float(high)))
    return bounds


def _two_sided(gaps: np.ndarray) -> float:
    """Twice the smaller tail at zero, never below 2 / (R + 1) and never above 1."""
    finite = gaps[np.isfinite(gaps)]
    if not finite.size:
        return float("nan")
    tail = min(np.count_nonzero(finite <= 0), np.count_nonzero(finite >= 0))
    return float(min(1.0, 2 * (tail + 1) / (finite.size + 1)))
