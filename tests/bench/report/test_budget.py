"""The error budget adds up, and shows what was measured alone."""

import pytest

from bench.records import BREAKDOWN, RECONSTRUCTION, RESIZE_ALONE, SCORE, Record
from bench.report.budget import PARTS, budgets
from bench.report.layout import markdown

LIMITS = {"localization_accuracy": 0.8, "giou_localized": 0.75, "giou": 0.61}


def records(grid=0.97, bound=0.9):
    place = {"method": "m", "dataset": "d", "split": "val"}
    asked = place | {"protocol": "per_expression"}
    found = [Record(metric=name, value=value, kind=BREAKDOWN, **asked) for name, value in LIMITS.items()]
    found += [Record(metric="giou", value=0.1, kind=BREAKDOWN, group={"small": True}, **asked)]
    found += [Record(metric=name, value=0.5, kind=SCORE, **asked) for name in ("giou", "bf_score", "giou@small")]
    for tokens, value in ((4, 0.3), (32, bound)) if bound else ():
        found += [Record(metric=name, value=value, kind=RECONSTRUCTION, tokens=tokens, **place)
                  for name in ("giou", "giou@small", "bf_score")]  # fmt: skip
    if grid:
        found.append(Record(metric="giou", value=grid, kind=RECONSTRUCTION, variant=RESIZE_ALONE, **place))
    return found


def figures(table):
    (row,) = table.rows
    return {name: row[name].value for name in (*PARTS, "giou") if name in row}


def test_the_parts_add_up_to_what_is_lost():
    (table,) = budgets(records())
    lost = figures(table)
    assert sum(lost[name] for name in PARTS) == pytest.approx(1 - lost["giou"])
    assert lost["resize"] == pytest.approx(0.03)
    assert lost["mask_tokenizer"] == pytest.approx(0.07)
    assert lost["localization"] == pytest.approx(0.9 * 0.2)
    assert lost["writing"] == pytest.approx(0.8 * 0.15)
    assert lost["rest"] == pytest.approx(0.8 * 0.75 - 0.61)
    assert "Error budget: d, each expression by itself" in markdown(table)


def test_without_the_resize_bound_the_mask_tokenizer_has_its_share():
    (table,) = budgets(records(grid=None))
    lost = figures(table)
    assert "resize" not in lost
    assert lost["mask_tokenizer"] == pytest.approx(0.1)
    assert sum(lost[name] for name in PARTS if name in lost) == pytest.approx(1 - lost["giou"])


def test_without_a_bound_there_is_no_budget():
    assert budgets(records(bound=None)) == []
    assert budgets([]) == []
