"""Ratios and rooflines are views of records."""

import pytest

from bench.records import Record
from bench.report import tables
from bench.report.layout import markdown
from bench.report.speed import orders, roofline, rounding, sentences, speedups

COMMON = dict(dataset="d", split="", kind="latency", device="a processor", precision="float32", n=9, backbone="8b")


def timed(method, tiles, backend="fast", **stages):
    common = COMMON | {"variant": {"tiles": tiles}, "backend": backend}
    return [
        Record(method, "median_ms", value, stage=stage, low=0.9 * value, high=1.1 * value, **common)
        for stage, value in stages.items()
    ]


@pytest.fixture
def records():
    mine = COMMON | {"variant": {"tiles": 1}, "backend": "fast"}
    floor = {"read_gb": 0.5, "gflop": 2.0, "floor_ms": 15.0, "bound_by_bandwidth": 1.0}
    roof = [Record("a", name, value, stage="mask", **mine) for name, value in floor.items()]
    limits = {"bandwidth_gb_s": 33.0, "rate_tflop_s": 0.1}
    return [
        *timed("a", 1, total=50.0, prefill=10.0, mask=20.0, mask_tokenizer=20.0),
        *timed("a", 1, "official", total=200.0, prefill=20.0, text=20.0, mask=50.0, mask_tokenizer=110.0),
        *timed("b", 1, total=100.0, mask=80.0),
        *timed("b", 5, total=300.0, mask=80.0),
        *roof,
        *(Record("a", name, value, **mine) for name, value in limits.items()),
    ]


def test_ratios_by_hand(records):
    table = speedups(records)[0]
    row = {column.key: table.rows[0][column.key] for column in table.columns}
    assert len(table.rows) == 1
    assert row["ratio"] == "4.00 (3.27 to 4.89)"
    assert row["ratio, language model"].startswith("3.00 ")
    assert table.notes[0] == "a (tiles=1) is 2.00 (1.64 to 2.44) times as fast as b (tiles=1)."
    assert not [note for note in table.notes if "tiles=5" in note]  # other images do not compare


def test_shares_by_hand(records):
    table = roofline(records)[0]
    assert table.rows == [
        {"method": "a (tiles=1)", "stage": "mask", "GB read": "0.5000", "GFLOP": "2.000", "floor ms": "15.000",
         "bound by": "bandwidth", "measured ms": "20.000", "share of floor": "75 %"}
    ]  # fmt: skip
    assert "33.0 GB/s" in table.notes[0]
    assert "75 %" in markdown(table)


def test_two_orders_stand_beside_each_other(records):
    values = {"plain_median_ms": (50.0, 45.0, 60.0), "median_ms": (500.0, 480.0, 700.0), "ratio": (10.0, 9.0, 11.5),
              "plain_steps": (12.0, None, None), "steps": (682.0, None, None), "same": (7.0, None, None)}  # fmt: skip
    asked = [
        Record(
            "a",
            name,
            value,
            "d",
            "val",
            "decoding_order",
            variant={"order": "token"},
            n=8,
            failures=1,
            low=low,
            high=high,
            device="a processor",
        )
        for name, (value, low, high) in values.items()
    ]
    (table,) = orders([*records, *asked])
    assert table.rows == [
        {"method": "a", "variant": "order=token", "steps": "12", "its steps": "682", "ms": "50.0 (45.0 to 60.0)",
         "its ms": "500.0 (480.0 to 700.0)", "ratio": "10.00 (9.00 to 11.50)", "equal answers": "7 of 8",
         "failures": "1"}
    ]  # fmt: skip
    assert "a processor, d val" in markdown(table)
    for view in (tables.ablations, tables.accuracy, tables.latency, tables.reconstruction, speedups, roofline):
        assert view([*records, *asked]) == view(records)  # it stands in no other table


def test_without_timings_there_is_nothing():
    assert speedups([]) == roofline([]) == orders([]) == sentences([]) == []


def test_the_price_of_integers():
    integers = COMMON | {"kind": "rounding"}
    values = {"changed_answers": 0.25, "changed_tokens": 0.01, "ciou": 0.5, "ciou_difference": -0.02}
    found = [
        Record("a", name, value, variant={"weights": "int8"}, low=value - 0.01, high=value + 0.01, **integers)
        for name, value in values.items()
    ]
    row = rounding(found)[0].rows[0]
    assert row["changed answers"] == "25.0 (24.0 to 26.0)" and row["difference of cIoU"] == "-2.0 (-3.0 to -1.0)"
    assert (row["method"], row["weights"], row["n"]) == ("a", "int8", "9") and rounding([]) == []
