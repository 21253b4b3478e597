"""How samples become figures: every metric is registered once, with its aggregation.

Each has the form of a ratio of sums, which lets `statistics` resample all metrics at once: a mean is the ratio with
ones below, a subset the ratio with zeros for the samples outside it, a figure per class the mean over the classes of
the ratio with zeros for the samples of other classes.

Legend: N samples, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Among = Callable[["Samples"], np.ndarray]  # -> bool [N], the samples that take part
Columns = tuple[np.ndarray, np.ndarray]  # numerators and denominators, [N], or [N, C] for a mean over classes


class Samples:
    """The scores of samples as columns: `samples.iou` is the array [N] of their IoU."""

    def __init__(self, scores: Sequence[Any]):
        self.scores = scores

    def __len__(self) -> int:
        return len(self.scores)

    def __getattr__(self, name: str) -> np.ndarray:
        if not self.scores:
            return np.empty(0)
        column = np.array([getattr(sample, name) for sample in self.scores])
        setattr(self, name, column)  # taken once for all metrics
        return column


def ratio_of_sums(top: np.ndarray, below: np.ndarray, among: np.ndarray, samples: Samples) -> Columns:
    """sum(top) / sum(below)."""
    return top * among, below * among


def mean(values: np.ndarray, among: np.ndarray, samples: Samples) -> Columns:
    """The mean of the samples' values."""
    return values * among, among * np.ones(len(samples), np.int64)


def per_class(top: np.ndarray, below: np.ndarray, among: np.ndarray, samples: Samples) -> Columns:
    """The mean over the classes of sum(top) / sum(below) within each."""
    names = sorted({name for name in samples.category if name is not None})
    inside = np.stack([samples.category == name for name in names], 1) * among[:, None]
    return top[:, None] * inside, below[:, None] * inside


EVERYWHERE, RECONSTRUCTIONS, NOWHERE = "all tables of scores", "tables of reconstructions", "records alone"


@dataclass(frozen=True)
class Metric:
    """values: samples -> what `aggregation` takes, arrays [N]. among: samples -> bool [N], those that take part; None:
    all. note: stands with every figure. title: heads its column in tables; where: the tables that show it."""

    name: str
    title: str
    aggregation: Callable[..., Columns]
    values: Callable[[Samples], Any]
    among: Among | None = None
    note: str = ""
    where: str = EVERYWHERE

    def members(self, samples: Samples) -> np.ndarray:
        """bool [N], the samples that take part."""
        return np.ones(len(samples), bool) if self.among is None else self.among(samples)


REGISTRY: dict[str, Metric] = {}
OCCASIONAL: set[str] = set()  # metrics that are left out where no sample takes part


def register(
    name: str, aggregation: Callable[..., Columns], values: Callable[[Samples], Any],
    among: Among | None = None, *, title: str = "", note: str = "", occasional: bool = False,
    where: str = EVERYWHERE,
) -> None:  # fmt: skip
    """Add a metric of fractions in 0..1; see `Metric`. occasional: it exists only where a sample takes part, as for
    data of one benchmark."""
    if name in REGISTRY:
        raise ValueError(f"There are two metrics {name!r}.")
    REGISTRY[name] = Metric(name, title or name, aggregation, values, among, note, where)
    OCCASIONAL.update([name] if occasional else [])


def terms(scores: Sequence[Any]) -> dict[str, Columns]:
    """name -> (numerators, denominators) of every metric that applies."""
    samples = Samples(scores)
    table = {}
    for name, metric in REGISTRY.items():
        among = metric.members(samples)
        if name in OCCASIONAL and not among.any():
            continue
        values = metric.values(samples)
        table[name] = metric.aggregation(*(values if isinstance(values, tuple) else (values,)), among, samples)
    return table


def support(scores: Sequence[Any]) -> dict[str, int]:
    """How many samples stand behind each metric."""
    samples = Samples(scores)
    counts = {name: int(metric.members(samples).sum()) for name, metric in REGISTRY.items()}
    return {name: count for name, count in counts.items() if count or name not in OCCASIONAL}


def note_of(name: str) -> str:
    """What is to be said with every figure of a metric."""
    return REGISTRY[name].note


def ratio(numerator: float, denominator: float) -> float:
    """A ratio of sums; NaN over nothing."""
    return float(numerator / denominator) if denominator else float("nan")


def value_of(top: np.ndarray, below: np.ndarray) -> float:
    """The figure of a metric's columns; classes without a sample are left out of a mean over classes."""
    if top.ndim == 1:
        return ratio(top.sum(), below.sum())
    there = below.sum(0) > 0
    return float(np.mean(top.sum(0)[there] / below.sum(0)[there])) if there.any() else float("nan")


def aggregate(scores: Sequence[Any]) -> dict[str, float | int]:
    """All figures of a set of samples, plus small_n, failures and n."""
    figures: dict[str, float | int] = {name: value_of(*columns) for name, columns in terms(scores).items()}
    figures["small_n"] = support(scores)["small_ciou"]
    figures["failures"] = sum(sample.failure is not None for sample in scores)
    figures["n"] = len(scores)
    return figures
