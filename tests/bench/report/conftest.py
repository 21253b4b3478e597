"""Synthetic records of two methods, two baselines and their mask tokenizers: no figure here was measured."""

from pathlib import Path

import pytest

from bench.records import Record

PLACE = {"dataset": "refmoji", "split": "val"}


def score_records(method, ciou, protocol="per_expression", **more):
    losses = {"ciou": 0.0, "giou": 0.02, "small_ciou": 0.2, "bf_score": 0.1, "acc@0.5": -0.05, "acc@0.7": 0.1,
              "acc@0.9": 0.3, "mask_acc@0.9": 0.2}  # fmt: skip
    figures = {name: max(0.0, ciou - loss) for name, loss in losses.items()}
    return [
        Record(method=method, metric=name, value=value, low=max(0.0, value - 0.03), high=value + 0.02,
               protocol=protocol, n=39 if name == "small_ciou" else 300, failures=2, **PLACE, **more)
        for name, value in figures.items()
    ]  # fmt: skip


def reconstruction_records(method, curve):
    return [
        Record(method=method, metric=metric, value=value - loss, low=value - loss - 0.01, high=value - loss + 0.01,
               kind="reconstruction", tokens=tokens, n=100, **PLACE)
        for tokens, value in curve.items()
        for metric, loss in (("giou", 0.0), ("ciou", -0.01), ("giou@small", 0.2))
    ]  # fmt: skip


def latency_records(method, total, stages):
    common = {"method": method, "kind": "latency", "backend": "fast", "n": 200, "device": "a processor, 2 threads",
              "precision": "float32", "note": "10 warm-ups"} | PLACE  # fmt: skip
    times = {"total": total} | stages
    return [
        Record(stage=stage, metric=f"{share}_ms", value=value * factor, **common)
        for stage, value in times.items()
        for share, factor in (("median", 1.0), ("p90", 1.3))
    ] + [
        Record(metric=name, value=value, **common)
        for name, value in {"steps": 34.0, "tokens": 32.0, "peak_mib": 1234.5}.items()
    ]


@pytest.fixture
def records():
    return [
        *score_records("himtok", 0.61, checkpoint="aaaa"),
        *score_records("himtok", 0.55, tokens=16, checkpoint="aaaa"),
        *score_records("argenseg", 0.58, checkpoint="bbbb"),
        *score_records("baseline:empty", 0.1),
        *score_records("baseline:largest-object", 0.27),
        *reconstruction_records("himtok", {1: 0.4, 4: 0.6, 8: 0.74, 16: 0.85, 32: 0.93}),
        *reconstruction_records("argenseg", {1: 0.2, 5: 0.4, 30: 0.6, 155: 0.8, 680: 0.96}),
        *latency_records("himtok", 210.4, {"vision": 5.25, "mask": 120.0, "resize": 0.31, "extra": 1.0}),
        *latency_records("argenseg", 150.0, {"vision": 5.1, "mask": 60.0, "mask_tokenizer": 40.0, "resize": 0.3}),
    ]


@pytest.fixture
def published_folder():
    """The papers' figures that are shipped."""
    return Path(__file__).parents[3] / "results" / "published"
