"""One method, timed with every decode backend on the same requests, and set beside what the machine could do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from bench.config import LatencyConfig
from bench.latency.measure import measure, peak_mebibytes
from bench.latency.records import roofline_records, to_records
from bench.latency.roofline import cost_per_million, count, measure_machine
from bench.records import LATENCY, Record, describe
from methods.base import Decoding, Model, Request


def time_backends(
    method: Model, requests: Sequence[Request], config: LatencyConfig, precision: torch.dtype, facts: Mapping[str, Any],
    answer_text: str = "verified_draft",
) -> list[Record]:  # fmt: skip
    """Records of each of the profile's decode backends; `facts` are the records' other fields. The official one may get
    fewer requests. Work and floor belong to a backend too, because they do not do the same work."""
    records: list[Record] = []
    machine = measure_machine(method.device, precision)
    for backend in config.backends:
        decoding = Decoding(backend, answer_text)
        identity = dict(facts) | {"backend": backend}
        asked = requests[: config.official_requests or None] if backend == "official" else requests
        told = describe(facts.get("variant", {}), facts.get("tokens"), backend)
        seconds = measure(method, asked, config.warmup, f"{facts['method']} {told}".strip(), decoding)
        records += to_records(seconds, peak_mebibytes(method.device), **identity)
        if config.price:
            value = cost_per_million(float(np.median(seconds["total"])), config.price)
            priced = identity | {"kind": LATENCY, "n": len(asked)}
            records.append(Record(metric="cost_per_million", value=value, **priced))
        records += roofline_records(count(method, requests[0], decoding), machine, **identity)
    return records
