"""Ratios and rooflines are views of records."""

import pytest

from bench.records import Record
from bench.report.layout import markdown
from bench.report.speed import roofline, sentences, speedups

COMMON = dict(dataset="d", split="", protocol="latency", device="a processor", precision="float32", n=9, backbone="8b")


def timed(method, variant, **stages):
    return [
        Record(
            method, f"latency/{stage}/median_ms", value, variant=variant, low=0.9 * value, high=1.1 * value, **COMMON
        )
        for stage, value in stages.items()
    ]


@pytest.fixture
def records():
    floor = {"read_gb": 0.5, "gflop": 2.0, "floor_ms": 15.0, "bound_by_bandwidth": 1.0}
    roof = [Record("a", f"latency/mask/{name}", value, variant="tiles=1", **COMMON) for name, value in floor.items()]
    limits = {"bandwidth_gb_s": 33.0, "rate_tflop_s": 0.1}
    return [
        *timed("a", "tiles=1", total=50.0, prefill=10.0, mask=20.0, codec=20.0),
        *timed("a", "tiles=1, path=reference", total=200.0, prefill=20.0, text=20.0, mask=50.0, codec=110.0),
        *timed("b", "tiles=1", total=100.0, mask=80.0),
        *timed("b", "tiles=5", total=300.0, mask=80.0),
        *roof,
        *(Record("a", f"latency/{name}", value, variant="tiles=1", **COMMON) for name, value in limits.items()),
    ]


def test_ratios_by_hand(records):
    table = speedups(records)[0]
    row = {column.key: table.rows[0][column.key] for column in table.columns}
    assert len(table.rows) == 1
    assert row["ratio"] == "4.00 (3.27 to 4.89)"
    assert row["ratio, language model"].startswith("3.00 ")
    assert table.notes[0] == "a (tiles=1) is 2.00 (1.64 to 2.44) times as fast as b (tiles=1)."
    assert not [note for note in table.notes if "tiles=5" in note]  # other pictures do not compare


def test_shares_by_hand(records):
    table = roofline(records)[0]
    assert table.rows == [
        {"method": "a (tiles=1)", "stage": "mask", "GB read": "0.5000", "GFLOP": "2.000", "floor ms": "15.000",
         "bound by": "bandwidth", "measured ms": "20.000", "share of floor": "75 %"}
    ]  # fmt: skip
    assert "33.0 GB/s" in table.notes[0]
    assert "75 %" in markdown(table)


def test_without_timings_there_is_nothing():
    assert speedups([]) == roofline([]) == sentences({}) == []
