"""Verdicts on a machine: made in order within the budget, kept where they passed, and of the real thing on a CPU."""

import time

import pytest
import torch

from bench.config import load_profile
from bench.latency import acceptance
from bench.latency.acceptance import accept
from bench.records import read_records
from methods.base import UserError

CPU = torch.device("cpu")


@pytest.fixture
def profile(tmp_path):
    return load_profile("gpu-check-tiny", [f"results={tmp_path}/results"])


def verdicts(profile, checks, monkeypatch, budget=60.0, share=0.0):
    monkeypatch.setattr(acceptance, "_checks", lambda *rest: checks)
    return [(each.check, each.state, each.told) for each in accept(profile, CPU, budget, share)]


def test_a_check_that_passed_is_not_made_again(profile, monkeypatch):
    made = []

    def check(name, passes):
        return lambda left: (made.append(name), (passes, f"{name} of 4"))[1]

    checks = {"bad": check("bad", False), "good": check("good", True)}
    wanted = [("bad", "fail", "bad of 4"), ("good", "pass", "good of 4")]
    assert verdicts(profile, checks, monkeypatch) == wanted
    again = verdicts(profile, checks, monkeypatch)
    assert again == [wanted[0], ("good", "pass", "good of 4 (found before)")]
    verdicts(profile, checks, monkeypatch, share=0.1)  # another bound is another check
    assert made == ["bad", "good", "bad", "bad", "good"]


def test_the_budget_ends_a_check_and_all_after_it(profile, monkeypatch):
    checks = {"quick": lambda left: (True, "1"), "slow": lambda left: time.sleep(60), "never": lambda left: 1 / 0}
    began = time.monotonic()
    found = verdicts(profile, checks, monkeypatch, budget=0.5)
    assert time.monotonic() - began < 20
    assert [state for _, state, _ in found] == ["pass", "left out", "left out"]
    assert "run the command again" in found[1][2]


def test_what_does_not_fit_in_memory_fails_alone(profile, monkeypatch):
    def large(left):
        raise torch.OutOfMemoryError("64 GiB")

    found = verdicts(profile, {"large": large, "small": lambda left: (True, "1")}, monkeypatch)
    assert [state for _, state, _ in found] == ["fail", "pass"]


def test_a_profile_without_random_weights(tmp_path):
    with pytest.raises(UserError, match="latency.untrained"):
        next(accept(load_profile("smoke", [f"results={tmp_path}"]), CPU, 10, 0))


def test_the_shipped_profile_asks_for_both_sizes():
    profile = load_profile("gpu-check")
    checks = acceptance._checks(profile, torch.device("cuda"), 0.5)
    assert {"tests marked gpu", "training, 1b", *(f"latency, {size}" for size in ("1b", "8b"))} <= set(checks)
    assert {entry.method for entry in profile.latency.untrained.values()} == {"himtok", "argenseg"}


@pytest.mark.slow
def test_on_a_cpu(profile):
    found = list(accept(profile, CPU, 300, 0))
    assert [each.state for each in found] == ["pass"] * 3
    assert [each.check for each in found] == ["equal mask tokens, tiny", "training, tiny", "latency, tiny"]
    records = [r for path in (profile.results_dir / "records").glob("*.jsonl") for r in read_records(path)]
    assert {record.method for record in records} == {"himtok", "argenseg"}
    assert {record.backend for record in records} == {"fast", "cuda_graphs"}
    asked = list(accept(profile, CPU, 300, 1.0))[-1]
    assert asked.state == "fail" and "100% of the floor asked for" in asked.told
