"""Measured seconds -> records."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.latency.measure import percentile_interval
from bench.latency.roofline import Machine, Work
from bench.records import LATENCY, Record

COUNTS = ("steps", "tokens")
PERCENTILES = (("median", 0.5, 1), ("p90", 0.9, 1), ("p99", 0.99, 662))  # label, share, fewest requests (as MLPerf)


def roofline_records(work: dict[str, Work], machine: Machine, **identity: Any) -> list[Record]:
    """Gigabytes, gigaflops and floor of each stage, and what the machine reaches."""
    identity |= {"kind": LATENCY, "n": 1}
    values = {("", "bandwidth_gb_s"): machine.bandwidth / 1e9, ("", "rate_tflop_s"): machine.rate / 1e12}
    for stage, done in work.items():
        seconds, bound = machine.floor(done)
        values |= {
            (stage, "read_gb"): done.bytes / 1e9,
            (stage, "gflop"): done.flops / 1e9,
            (stage, "floor_ms"): 1e3 * seconds,
            (stage, f"bound_by_{bound}"): 1.0,
        }
    return [Record(stage=stage, metric=metric, value=value, **identity) for (stage, metric), value in values.items()]


def to_records(seconds: dict[str, np.ndarray], peak_mib: float, **identity: Any) -> list[Record]:
    """Median and high percentiles of each stage in milliseconds, median steps and tokens, peak memory."""
    identity |= {"kind": LATENCY, "n": len(seconds["total"])}
    records = [Record(metric="peak_mib", value=peak_mib, **identity)]
    for name, values in seconds.items():
        if name in COUNTS:
            records.append(Record(metric=name, value=float(np.median(values)), **identity))
            continue
        for label, share, fewest in PERCENTILES:
            if len(values) < fewest:
                continue
            low, high = percentile_interval(values, share)
            value = float(np.quantile(values, share))
            in_ms = {"value": 1e3 * value, "low": 1e3 * low, "high": 1e3 * high}
            records.append(Record(stage=name, metric=f"{label}_ms", **in_ms, **identity))
    return records
