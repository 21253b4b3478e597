"""How sure a figure is: the bootstrap over pictures, differences of two methods, and Holm's correction.

Several expressions share one picture, so samples are not independent, and cIoU is a ratio of sums: pictures are drawn
again with replacement and the whole ratio is computed anew. Every aggregate has the form sum(a) / sum(b)
(`metrics.terms`), so all resamples of all metrics are one matrix product of draw counts with per-picture sums.

Legend: N samples, C pictures (clusters), M metrics, R resamples.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.evaluate.metrics import SampleScore, ratio, terms

RESAMPLES = 2000
LEVEL = 0.95
Terms = Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Interval:
    """A figure and its percentile interval; NaN bounds when there are fewer than two pictures to resample."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """First minus second, on the same samples, with the two-sided bootstrap p-value of "no difference"."""

    p: float


def intervals(
    scores: Sequence[SampleScore], pictures: Sequence[Hashable], seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """The interval of every aggregate; `pictures` names the picture of each sample."""
    return ratio_intervals(terms(scores), pictures, seed, resamples)


def ratio_intervals(
    table: Terms, pictures: Sequence[Hashable], seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """The same for any table of name -> (numerators [N], denominators [N])."""
    values, draws = _resampled(table, pictures, seed, resamples)
    bounds = _bounds(draws)
    return {name: Interval(values[m], *bounds[m]) for m, name in enumerate(table)}


def differences(
    first: Sequence[SampleScore],
    second: Sequence[SampleScore],
    pictures: Sequence[Hashable],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Difference]:
    """Paired differences, first minus second, of two methods' scores of the same samples in the same order."""
    if not len(first) == len(second) == len(pictures):
        raise ValueError(
            f"Paired scores need equal lengths, got {len(first)}, {len(second)}, {len(pictures)} pictures."
        )
    value_a, draws_a = _resampled(terms(first), pictures, seed, resamples)
    value_b, draws_b = _resampled(terms(second), pictures, seed, resamples)
    gaps = draws_a - draws_b
    bounds = _bounds(gaps)
    return {
        name: Difference(value_a[m] - value_b[m], *bounds[m], _two_sided(gaps[:, m]))
        for m, name in enumerate(terms(first))
    }


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction: adjusted p-values that bound the chance of any false alarm in the family."""
    ordered = sorted(p_values, key=lambda name: p_values[name])
    adjusted, running = {}, 0.0
    for rank, name in enumerate(ordered):
        running = max(running, min(1.0, (len(ordered) - rank) * p_values[name]))
        adjusted[name] = running
    return {name: adjusted[name] for name in p_values}


def _resampled(table: Terms, pictures: Sequence[Hashable], seed: int, resamples: int) -> tuple[list[float], np.ndarray]:
    """The figures [M] and their resamples [R, M]; NaN where a denominator is 0."""
    tops, belows = (np.stack([pair[half] for pair in table.values()], 1).astype(np.float64) for half in (0, 1))
    values = [ratio(top.sum(), below.sum()) for top, below in table.values()]
    index = {name: c for c, name in enumerate(dict.fromkeys(pictures))}
    cluster = np.array([index[name] for name in pictures], np.intp)
    if len(index) < 2:
        return values, np.full((resamples, len(table)), np.nan)
    counts = _draw_counts(len(index), seed, resamples)
    sums = [counts @ _per_cluster(side, cluster, len(index)) for side in (tops, belows)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return values, np.where(sums[1] > 0, sums[0] / sums[1], np.nan)


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
