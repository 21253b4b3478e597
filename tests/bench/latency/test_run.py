"""`genseg latency` times once what has the same weights, data and settings."""

import pytest

from bench.latency import run
from bench.records import Record, read_records
from bench.train.models import find_models


def time_models(profile):
    return run.time_models(profile, find_models(profile))


@pytest.mark.slow
def test_latency_is_measured_once_for_the_same_weights_and_settings(small, asked):
    small.latency.backends = ["fast"]
    first = time_models(small)
    assert {record.method for record in first} == {"himtok", "argenseg"}
    del asked[:]
    again = time_models(small)
    assert sorted(again, key=lambda r: r.key) == sorted(first, key=lambda r: r.key)
    assert asked == []
    small.latency.warmup = 2
    second = time_models(small)
    # two methods: two warm-ups, two passes over two requests, and one request whose work is counted
    assert sum(asked) == 2 * (2 + 2 * 2 + 1)
    assert {record.note for record in second} == {"1 threads, 2 warm-ups"}
    small.latency.requests = 3
    assert {record.n for record in time_models(small)} == {1, 3}  # the counted work is that of one request


@pytest.fixture
def timed(monkeypatch):
    """The methods that are timed, which then takes no time."""
    names = []

    def time_backends(method, requests, config, precision, facts):
        names.append(facts["method"])
        return [Record(stage="total", metric="median_ms", value=1.0, kind="latency", n=len(requests), **facts)]

    monkeypatch.setattr(run, "time_backends", time_backends)
    monkeypatch.setattr(run, "scale", lambda *_, **facts: [])
    return names


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("precision", "bfloat16"),
        ("price", 2.0),
        ("warmup", 0),
        ("requests", 3),
        ("backends", ["fast"]),
        ("scaling", True),
    ],
)
def test_another_setting_is_timed_anew(small, timed, key, value):
    time_models(small)
    time_models(small)
    assert timed == ["himtok", "argenseg"]
    setattr(small.latency, key, value)
    time_models(small)
    assert timed == ["himtok", "argenseg"] * 2
    small.latency.sizes = ["1b"]  # of random weights, which these are not
    time_models(small)
    assert timed == ["himtok", "argenseg"] * 2


def test_other_data_and_records_without_a_stamp_are_timed_anew(small, timed, squares, monkeypatch):
    first = time_models(small)
    monkeypatch.setattr(type(squares(4)), "digest", lambda self: "circles")
    time_models(small)
    assert timed == ["himtok", "argenseg"] * 2
    path = small.results_dir / "records" / "latency.jsonl"
    assert sorted(read_records(path), key=lambda r: r.key) == sorted(first, key=lambda r: r.key)
    path.with_suffix(".stamp").unlink()
    assert read_records(path.parent) == read_records(path)
    time_models(small)
    assert timed == ["himtok", "argenseg"] * 3


def test_times_on_another_dataset_have_a_file_of_their_own(small, timed):
    time_models(small)
    small.data.dataset = "refcoco"
    assert {record.dataset for record in time_models(small)} == {"refcoco"}
    assert timed == ["himtok", "argenseg"] * 2
    small.data.dataset = "refmoji"
    time_models(small)
    assert timed == ["himtok", "argenseg"] * 2
    folder = small.results_dir / "records"
    assert {path.name for path in folder.glob("*.jsonl")} == {"latency.jsonl", "refcoco.latency.jsonl"}


def test_times_with_scaling_serve_a_run_without(small, timed):
    small.latency.scaling = True
    time_models(small)
    small.latency.scaling = False
    time_models(small)
    assert timed == ["himtok", "argenseg"]


def test_a_method_that_was_timed_before_a_kill_is_not_timed_again(small, timed, monkeypatch):
    whole = run.time_backends

    def killed(method, requests, config, precision, facts):
        if facts["method"] == "argenseg":
            raise KeyboardInterrupt
        return whole(method, requests, config, precision, facts)

    monkeypatch.setattr(run, "time_backends", killed)
    with pytest.raises(KeyboardInterrupt):
        time_models(small)
    monkeypatch.setattr(run, "time_backends", whole)
    assert {record.method for record in time_models(small)} == {"himtok", "argenseg"}
    assert timed == ["himtok", "argenseg"]
