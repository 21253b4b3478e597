"""Every backend gets its requests, and its records say how many."""

import numpy as np
import pytest
import torch

from bench.config import LatencyConfig
from bench.latency import session


@pytest.mark.parametrize(("official", "counts"), [(0, (5, 5)), (2, (5, 2)), (9, (5, 5))])
def test_the_official_backend_may_get_the_first_requests_only(monkeypatch, official, counts):
    seen = {}

    def measure(method, requests, warmup, name, decoding):
        seen[decoding.backend] = list(requests)
        return {"total": np.ones(len(requests))}

    for name in ("measure_machine", "count", "roofline_records"):
        monkeypatch.setattr(session, name, lambda *_, **__: [])
    monkeypatch.setattr(session, "measure", measure)
    config = LatencyConfig(requests=5, official_requests=official, price=1.0)
    method, facts = (
        type("Model", (), {"device": torch.device("cpu")}),
        {"dataset": "d", "split": "val", "method": "himtok"},
    )
    records = session.time_backends(method, range(5), config, torch.float32, facts)
    assert (seen["fast"], seen["official"]) == tuple(list(range(count)) for count in counts)
    assert {(r.backend, r.n) for r in records} == {("fast", counts[0]), ("official", counts[1])}
