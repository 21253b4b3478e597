"""What is timed, how its intervals are made, and the records that come of it."""

import os
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from bench.latency.measure import forget_peak, measure, peak_mebibytes, percentile_interval
from bench.latency.records import to_records
from methods.base import DEFAULT, Decoding, Prediction, Request

CPU = torch.device("cpu")


@pytest.mark.parametrize("n", [20, 50, 100, 200, 1000])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_the_interval_of_a_percentile_covers_it(n, share):
    """Exact coverage: the true percentile lies between order statistics i and j with P(i <= Bin(n, share) < j)."""
    low, high = percentile_interval(np.arange(n, dtype=float), share)
    first, last = int(low) + 1, int(high) + 1  # ranks from 1
    coverage = binom.cdf(last - 1, n, share) - binom.cdf(first - 1, n, share)
    possible = 1 - share**n  # the largest value may lie below the percentile
    assert coverage > min(0.925, possible - 0.05)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=60), st.sampled_from([0.5, 0.9]))
def test_the_interval_lies_within_the_values_and_around_the_percentile(values, share):
    low, high = percentile_interval(np.array(values), share)
    assert min(values) <= low <= high <= max(values)
    assert low <= np.quantile(values, share) + 1e-9
    assert high >= np.quantile(values, share) - 1e-9


class Sleeper:
    """Answers after a while; every third request writes no mask."""

    device = CPU
    decoding = Decoding()

    def __init__(self):
        self.asked = []

    def segment(self, requests, decoding=DEFAULT):
        assert len(requests) == 1
        number = requests[0].image
        self.asked.append(number)
        time.sleep(0.002)
        seconds = {"vision": 0.001, "text": 0.002} | ({} if number % 3 == 2 else {"mask": 0.5})
        return [Prediction(np.zeros((1, 1), bool), token_ids=tuple(range(number)), steps=number, seconds=seconds)]


def requests(count: int) -> list[Request]:
    return [Request(number, ("it",)) for number in range(count)]


def test_every_request_is_timed_once_and_taken_apart_once():
    method = Sleeper()
    found = measure(method, requests(6), warmup=2, name="sleeper", decoding=DEFAULT)
    assert method.asked == [0, 1, *range(6), *range(6)]
    assert found["total"].shape == (6,)
    assert (found["total"] >= 0.002).all()
    assert found["steps"].tolist() == found["tokens"].tolist() == list(range(6))
    assert found["vision"].tolist() == [0.001] * 6


def test_a_stage_that_was_not_reached_took_no_time():
    found = measure(Sleeper(), requests(6), warmup=0, name="sleeper", decoding=DEFAULT)
    assert found["mask"].shape == (6,)
    assert sorted(found["mask"].tolist()) == [0, 0, 0.5, 0.5, 0.5, 0.5]


def test_more_warm_ups_than_requests():
    assert len(measure(Sleeper(), requests(2), warmup=10, name="sleeper", decoding=DEFAULT)["total"]) == 2


def test_a_real_method_reports_all_its_stages(writer, writing, examples):
    asked = [Request(example.image, example.expressions[:1]) for example in examples[:3]]
    found = measure(writing(writer), asked, warmup=1, name=writer.name, decoding=DEFAULT)
    stages = {"preprocess", "vision", "prefill", "text", "mask", "mask_tokenizer", "resize"}
    steps = {name for name in found if name.startswith("step ")}
    assert len(steps) == (32 if writer.name == "himtok" else 4)
    assert set(found) == stages | steps | {"total", "steps", "tokens"}
    assert set(found["tokens"]) == {writer.mask_tokenizer.length}


IDENTITY = dict(method="m", dataset="d", split="val", device="cpu")


def test_records_by_hand():
    seconds = {"total": np.arange(1, 102) / 1000, "steps": np.full(101, 35), "tokens": np.full(101, 32)}
    records = {record.metric: record for record in to_records(seconds, 512.5, **IDENTITY)}
    assert records.keys() == {"peak_mib", "median_ms", "p90_ms", "steps", "tokens"}
    median = records["median_ms"]
    assert (median.value, median.n, median.kind, median.stage) == (pytest.approx(51), 101, "latency", "total")
    assert median.low < 51 < median.high
    assert records["p90_ms"].value == pytest.approx(91)
    assert (records["steps"].value, records["peak_mib"].value) == (35, 512.5)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the process's peak is read from Linux's /proc")
def test_peak_memory_grows_with_use():
    forget_peak(CPU)
    before = peak_mebibytes(CPU)
    block = np.ones(60 * 2**20, np.uint8)
    assert peak_mebibytes(CPU) > before + 50
    del block
    assert before > 10


def test_gpu_memory_is_asked_of_the_gpu(monkeypatch):
    calls = SimpleNamespace(reset=[])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**20)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", calls.reset.append)
    forget_peak(torch.device("cuda"))
    assert calls.reset == [torch.device("cuda")]
    assert peak_mebibytes(torch.device("cuda")) == 3
