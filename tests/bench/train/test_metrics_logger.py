"""What a run logs of its speed."""

import json

import pytest
import torch

from bench.config import TrainConfig
from bench.distributed import DistributedContext
from bench.train.metrics_logger import MetricsLogger


class Meter:
    def utilisation(self, tokens):
        return None


def logger(folder):
    return MetricsLogger("himtok", folder, TrainConfig(), DistributedContext(), torch.device("cpu"))


@pytest.mark.parametrize("rest", ["", '{"step": 3, "sec'])
def test_seconds_go_on_where_a_stopped_run_left_them(tmp_path, monkeypatch, rest):
    clock = iter((10.0, 14.0, 14.0, 20.0, 20.0, 100.0, 103.0, 103.0)).__next__
    monkeypatch.setattr("bench.train.throughput.time.monotonic", clock)
    first = logger(tmp_path)
    for step in (1, 2):
        first.log(step, {"step": step, "samples": 8 * step}, Meter())
    path = tmp_path / "speed.jsonl"
    path.write_text(path.read_text() + rest)  # killed in the middle of a line
    logger(tmp_path).log(3, {"step": 3, "samples": 24}, Meter())
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["seconds"], row["samples"], row["processes"]) for row in rows] == [(4, 8, 1), (10, 16, 1), (13, 24, 1)]
    assert all(row["device"] for row in rows)
