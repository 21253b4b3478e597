"""The same answers in two orders: how often they agree, and what the longer way costs.

Two forms of one model (say, whole scales against single tokens) are asked the same requests in turn, one at a time, so
that a busy machine slows both alike. The whole request is timed, as in measure.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.latency.measure import now, percentile_interval
from bench.progress import Progress
from bench.records import DECODING_ORDER, Record
from methods.base import Model, Prediction, Request


@dataclass(frozen=True)
class Pairs:
    """N requests, answered by the model as it is and by its other form."""

    seconds: np.ndarray  # float [N, 2]
    steps: np.ndarray  # int [N, 2]
    same: np.ndarray  # bool [N]: a mask was written, by both with the same tokens
    failed: np.ndarray  # bool [N]: one of the two has no mask


def ask_both(plain: Model, other: Model, requests: Sequence[Request], warmup: int, name: str) -> Pairs:
    """Ask both every request, the first `warmup` of them once before, untimed."""
    for request in requests[:warmup]:
        for method in (plain, other):
            method.segment([request])
    rows: list[list[tuple[float, Prediction]]] = []
    with Progress(name, 2 * len(requests)) as progress:
        for request in requests:
            rows.append([])
            for method in (plain, other):
                start = now(method.device)
                prediction = method.segment([request])[0]
                rows[-1].append((now(method.device) - start, prediction))
                progress.advance()
    ids = [[prediction.token_ids for _, prediction in row] for row in rows]
    return Pairs(
        np.array([[seconds for seconds, _ in row] for row in rows]),
        np.array([[prediction.steps for _, prediction in row] for row in rows]),
        np.array([first == second and len(first) > 0 for first, second in ids]),
        np.array([not first or not second for first, second in ids]),
    )


def to_records(pairs: Pairs, **identity: Any) -> list[Record]:
    """Median milliseconds and steps of both, the median of the requests' own ratios, the number of equal answers."""
    identity |= {"kind": DECODING_ORDER, "n": len(pairs.same), "failures": int(pairs.failed.sum())}
    plain, other = pairs.seconds.T
    series = {"plain_median_ms": 1e3 * plain, "median_ms": 1e3 * other, "ratio": other / plain}
    records = []
    for metric, values in series.items():
        low, high = percentile_interval(values, 0.5)
        records.append(Record(metric=metric, value=float(np.median(values)), low=low, high=high, **identity))
    steps = {"plain_steps": pairs.steps[:, 0], "steps": pairs.steps[:, 1]}
    counts = {name: float(np.median(values)) for name, values in steps.items()} | {"same": float(pairs.same.sum())}
    return records + [Record(metric=name, value=value, **identity) for name, value in counts.items()]
