"""Measured seconds -> records."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.latency.measure import percentile_interval
from bench.records import LATENCY, Record

COUNTS = ("steps", "tokens")


def to_records(seconds: dict[str, np.ndarray], peak_mib: float, **identity: Any) -> list[Record]:
    """Median and 90th percentile of each stage in milliseconds, median steps and tokens, peak memory."""
    identity |= {"protocol": LATENCY, "n": len(seconds["total"])}
    records = [Record(metric="latency/peak_mib", value=peak_mib, **identity)]
    for name, values in seconds.items():
        if name in COUNTS:
            records.append(Record(metric=f"latency/{name}", value=float(np.median(values)), **identity))
            continue
        for label, share in (("median", 0.5), ("p90", 0.9)):
            low, high = percentile_interval(values, share)
            value = float(np.quantile(values, share))
            records.append(
                Record(
                    metric=f"latency/{name}/{label}_ms", value=1e3 * value, low=1e3 * low, high=1e3 * high, **identity
                )
            )
    return records
