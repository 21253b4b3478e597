"""The answer first: sentences, the claims' table and the chart."""

import pandas as pd
import pytest

from bench.records import DIFFERENCE, Record
from bench.report.summary import claims, sentences


def test_accuracy_and_speed_in_words(records):
    accuracy, speed = sentences(records, [])
    assert accuracy == (
        "On RefMoji val, each expression by itself, HiMTok reaches a cIoU of 61.0 ± 2.5 and ARGenSeg 58.0 ± 2.5 (300 "
        "samples)."
    )
    assert "a processor, 2 threads" in speed and "times as long (95 % interval " in speed
    assert sentences([], []) == []


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [(-0.09, -0.02, "the difference is 2.0 to 9.0 points"), (-0.05, 0.01, "the difference is not sure")],
)
def test_a_paired_difference_is_told_as_it_is(records, low, high, told):
    gap = Record("himtok", "ciou", (low + high) / 2, "refmoji", "val", DIFFERENCE, "per_expression", low=low, high=high,
                 against={"method": "argenseg"})  # fmt: skip
    assert f"(300 samples; paired by sample {told})" in sentences([*records, gap], [])[0]


def test_one_method_alone(records):
    mine = [r for r in records if r.method == "himtok"]
    assert sentences(mine, [])[0].endswith("HiMTok reaches a cIoU of 61.0 ± 2.5 (300 samples).")


def test_claims_have_a_verdict_and_a_reason_each(records):
    (table,) = claims(records, pd.DataFrame(columns=["table", "method", "metric", "printed"]))
    verdicts = {row["verdict"] for row in table.rows}
    assert verdicts <= {"reproduced", "contradicted", "not decided", "not measured here"} and verdicts
    assert any(row["metric"] == "latency" and row["paper"] == "more than 4 times" for row in table.rows)
    assert sentences([], [table]) == [sentences(records, [table])[-1]]
    assert f"Of {len(table.rows)} measurements of what the papers claim" in sentences([], [table])[0]
