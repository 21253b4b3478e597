"""The answer to the claim is a view of records."""

import pytest

from bench.records import Record
from bench.report.claim import claims

COMMON = dict(dataset="d", split="", kind="latency", device="a processor", precision="float32", n=9, backbone="8b")


def timed(method, variant, steps, tokens, backend="fast", asked=None, **stages):
    counts = {"steps": steps, "tokens": tokens}
    common = COMMON | {"variant": variant, "backend": backend, "tokens": asked}
    return [
        *(
            Record(method, "median_ms", value, stage=stage, low=0.9 * value, high=1.1 * value, **common)
            for stage, value in stages.items()
        ),
        *(Record(method, name, value, **common) for name, value in counts.items()),
    ]


@pytest.mark.parametrize(
    ("himtok", "answer"),
    [(600.0, "reproduced"), (450.0, "not decided"), (300.0, "contradicted"), (50.0, "contradicted")],
)
def test_the_interval_decides(himtok, answer):
    records = [
        *timed("argenseg", {"tiles": 1}, 11, 680, total=100.0, prefill=10.0, mask=40.0),
        *timed("argenseg", {"model": "680 steps", "tiles": 1}, 681, 680, total=900.0),
        *timed("argenseg", {"model": "512 px", "tiles": 1}, 11, 2240, total=300.0),
        *timed("himtok", {"tiles": 1}, 9, 8, asked=8, total=10.0),
        *timed("himtok", {"tiles": 1}, 33, 32, asked=32, total=himtok, prefill=10.0, mask=190.0),
        *timed("himtok", {"tiles": 5}, 33, 32, asked=32, total=1.0),
        *timed("himtok", {"tiles": 1}, 39, 32, "official", 32, total=1.0),
    ]
    table = claims(records)[0]
    assert len(table.rows) == len(table.notes) == 1  # other tiles and backends have no partner
    row = table.rows[0]
    assert row["over four times faster"] == answer
    assert row["HiMTok / ARGenSeg"].startswith(f"{himtok / 100:.2f} ")
    assert row["of the language model"].startswith("4.00 ")
    assert f"in 100.0 ms, HiMTok (32 mask tokens) in {himtok:.1f} ms" in table.notes[0]
    assert f"is {answer} here" in table.notes[0]


def test_integers_and_backends_have_lines_of_their_own():
    records = [
        record
        for variant, backend in (({}, "fast"), ({"weights": "int8"}, "fast"), ({}, "official"))
        for method, steps in (("argenseg", 11), ("himtok", 33))
        for record in timed(method, variant, steps, 32, backend, total=100.0)
    ]
    rows = claims(records)[0].rows
    assert [(row["backend"], row["weights"]) for row in rows] == [("fast", ""), ("fast", "int8"), ("official", "")]


def test_one_method_alone_answers_nothing():
    assert claims(timed("himtok", {}, 33, 32, total=1.0)) == []
