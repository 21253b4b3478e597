"""One method, timed on every path with the same requests, and set beside what the machine could do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from bench.config import LatencyConfig
from bench.latency.measure import measure, peak_mebibytes
from bench.latency.records import roofline_records, to_records
from bench.latency.roofline import cost_per_million, count, measure_machine
from bench.records import LATENCY, Record
from methods.base import Decoding, Model, Request

STORED = {"cuda_graphs": "graphs", "official": "reference"}  # as records have them


def variant_of(variant: str, path: str) -> str:
    """The fast backend is the method itself; any other is a variant of it."""
    return variant if path == "fast" else ", ".join(filter(None, [variant, f"path={STORED[path]}"]))


def time_paths(
    method: Model, requests: Sequence[Request], config: LatencyConfig, precision: torch.dtype, facts: Mapping[str, Any],
    answer_text: str = "verified_draft",
) -> list[Record]:  # fmt: skip
    """Records of each of the profile's paths; `facts` are the records' other fields. Work and floor belong to a path
    too, because the paths do not do the same work."""
    records: list[Record] = []
    variant = facts.get("variant", "")
    machine = measure_machine(method.device, precision)
    for path in config.paths:
        decoding = Decoding(path, answer_text)
        identity = dict(facts) | {"variant": variant_of(variant, path)}
        name = f"{facts['method']} {identity['variant']}".strip()
        seconds = measure(method, requests, config.warmup, name, decoding)
        records += to_records(seconds, peak_mebibytes(method.device), **identity)
        if config.price:
            value = cost_per_million(float(np.median(seconds["total"])), config.price)
            priced = identity | {"protocol": LATENCY, "n": len(requests)}
            records.append(Record(metric="latency/cost_per_million", value=value, **priced))
        records += roofline_records(count(method, requests[0], decoding), machine, **identity)
    return records
