"""Claims of the papers: a view of the ablations' records."""

from dataclasses import replace

import pandas as pd
import pytest

from bench.experiments.claims import Claims, load_claims
from bench.records import BREAKDOWN, DIFFERENCE, Record
from bench.report import layout
from bench.report.findings import findings
from bench.report.published import load_published

CLAIMS = load_claims().scores
CLAIM = CLAIMS[0]
OF_ITS_METHOD = [claim for claim in CLAIMS if claim.method == CLAIM.method]  # of others nothing is told
COMMON = dict(dataset="d", split="val", protocol="per_expression", n=50)
EMPTY = pd.DataFrame(columns=["table", "method", "metric", "printed"])


def measured(claim, gain, low, high, baseline=0.2):
    scored = dict(method=claim.method, metric=claim.metric, **COMMON)
    return [
        Record(**scored, value=0.5 + gain, **claim.more.fields),
        Record(**scored, value=0.5, **claim.less.fields),
        Record(
            **scored, value=gain, low=low, high=high, kind=DIFFERENCE, against=claim.less.fields, **claim.more.fields
        ),
        Record(**scored | {"method": "baseline:full"}, value=baseline),
        Record(**scored | {"method": "baseline:empty"}, value=0.0),
    ]


@pytest.mark.parametrize(
    ("bounds", "answer"),
    [
        ((0.01, 0.2), "reproduced"),
        ((-0.01, 0.2), "not decided"),
        ((-0.2, -0.01), "contradicted"),
        ((0.0, 0.0), "not decided"),
    ],
)
def test_the_interval_of_the_difference_decides(bounds, answer):
    table = findings(measured(CLAIM, sum(bounds) / 2, *bounds), EMPTY)[0]
    assert [row["answer"] for row in table.rows] == [answer] + (len(OF_ITS_METHOD) - 1) * ["not measured here"]
    assert f"is {answer} here" in table.notes[1]
    assert f"({100 * bounds[0]:+.1f} to {100 * bounds[1]:+.1f};" in table.notes[1]


@pytest.mark.parametrize("baseline", [0.46, 0.5, 0.9])
def test_models_that_do_not_beat_the_trivial_baselines_decide_nothing(baseline):
    table = findings(measured(CLAIM, 0.3, 0.2, 0.4, baseline), EMPTY)[0]
    assert table.rows[0]["answer"] == "not decided: not trained far enough"
    assert f"{CLAIM.less.label} has 50.0 cIoU, and the best trivial baseline has {100 * baseline:.1f}" in table.notes[1]
    assert findings(measured(CLAIM, 0.3, 0.2, 0.4, 0.44), EMPTY)[0].rows[0]["answer"] == "reproduced"


def test_without_a_baseline_nothing_is_decided():
    table = findings(measured(CLAIM, 0.3, 0.2, 0.4)[:3], EMPTY)[0]
    assert table.rows[0]["answer"] == "not decided: no trivial baseline was scored"


def test_the_figures_are_those_per_expression():
    records = measured(CLAIM, 0.1, 0.05, 0.15)
    joined = [replace(r, value=0.9, protocol="per_object_joined") for r in records[:2]]
    elsewhere = [replace(r, value=0.8, dataset="e") for r in records[:2]]
    row = findings([*records, *joined, *elsewhere], EMPTY)[0].rows[0]
    assert (row["without"].value, row["with"].value) == (0.5, 0.6)


def test_a_claim_needs_both_scores_and_their_difference():
    for left_out in range(3):
        records = measured(CLAIM, 0.1, 0.05, 0.15)
        del records[left_out]
        assert findings(records, EMPTY) == []


def test_printed_figures_stand_beside(pytestconfig):
    published = load_published(pytestconfig.rootpath / "results" / "published")
    records = [record for claim in CLAIMS for record in measured(claim, 0.1, 0.05, 0.15)]
    printed = {row["claim"]: row["paper"] for row in findings(records, published)[0].rows if row["metric"] == "cIoU"}
    assert printed["the hierarchical mask loss helps"] == "79.2, 81.1"
    assert printed["32 mask tokens are better than 16"] == "+2.5"
    assert printed["ten scales are better than one"] == "no figure"
    assert "| 79.2, 81.1 " in layout.markdown(*findings(records, published))


def test_direction_and_margin_decide(monkeypatch):
    def answer(gain, **changes):
        claim = replace(CLAIM, **changes)
        monkeypatch.setattr("bench.report.findings.load_claims", lambda: Claims([claim]))
        return findings(measured(claim, gain, gain - 0.01, gain + 0.01), EMPTY)[0].rows[0]["answer"]

    assert answer(0.1) == answer(0.1, margin=0.05) == answer(-0.1, direction="lower") == "reproduced"
    assert answer(-0.1) == answer(0.1, direction="lower") == answer(0.1, margin=0.2) == "contradicted"
    assert answer(0.1, margin=0.1) == "not decided"
    assert answer(0.1, baselines=["baseline:random-object"]) == "not decided: no trivial baseline was scored"
    assert answer(0.1, lead=0.4) == "not decided: not trained far enough"


def test_of_several_differences_that_over_most_trainings_counts():
    one, three = (measured(CLAIM, gain, gain - 0.1, gain + 0.1) for gain in (0.2, 0.05))
    mean = [replace(record, trainings=3) for record in three[:3]]
    row = findings([*mean, *one], EMPTY)[0].rows[0]
    assert (row["trainings"], row["answer"], row["gain"].value) == (3, "not decided", 0.05)
    assert row["with"].value == 0.55


def test_a_claim_about_a_group_needs_models_that_have_learned_on_all_samples():
    claim = next(claim for claim in CLAIMS if claim.group)
    whole = measured(claim, 0.3, 0.2, 0.4)
    sides = [replace(r, kind=BREAKDOWN, group=claim.group, value=r.value - 0.4) for r in whole[:2]]
    records = [*whole[:2], *sides, replace(whole[2], group=claim.group), *whole[3:]]
    row = next(row for row in findings(records, EMPTY)[0].rows if row["claim"] == claim.title)
    assert (row["answer"], row["with"].value) == ("reproduced", pytest.approx(0.4))  # below the baseline in the group
    assert findings([*sides, *records[4:]], EMPTY) == []  # nobody knows whether they have learned


def test_a_difference_without_an_interval_decides_nothing():
    """As in a group whose samples are all of one image."""
    table = findings(measured(CLAIM, 0.3, None, None), EMPTY)[0]
    assert table.rows[0]["answer"] == "not decided: a single image has no interval"
    assert "50 samples of one image have no interval" in layout.markdown(table)
