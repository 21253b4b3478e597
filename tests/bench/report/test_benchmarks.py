"""The papers' tables: a row per method and protocol, a column per split, and their own rows with their sources."""

from pathlib import Path

import pandas as pd
import pytest

from bench.records import REFINED, Record
from bench.report import layout
from bench.report.benchmarks import OURS, PAPER, SCRIPT, benchmarks
from bench.report.layout import Figure
from bench.report.published import FIELDS, load_published

PUBLISHED = load_published(Path(__file__).parents[3] / "results" / "published")
NOTHING = pd.DataFrame(columns=FIELDS)


def record(dataset, split, metric, value, method="himtok", protocol="official", **more):
    return Record(method, metric, value, dataset, split, protocol=protocol, n=more.pop("n", 10), **more)


@pytest.fixture
def res():
    """cIoU of three splits under two protocols; one is printed by a script too."""
    return [
        record("refcoco", "testA", "ciou", 0.5, low=0.4, high=0.6, failures=1),
        record("refcoco", "val", "ciou", 0.6),
        record("refcoco", "val", "giou", 0.7),
        record("refcoco", "val", "printed/ciou", 0.61),
        record("refcocog", "test", "ciou", 0.3, protocol="shared"),
        record("refcoco", "val", "ciou", 0.1, method="baseline:full"),
    ]


def test_a_row_is_a_method_under_a_protocol(res):
    (table,) = benchmarks(res, NOTHING)
    assert table.title.startswith("Referring segmentation")
    assert [column.title for column in table.columns[3:]] == [
        "RefCOCO val", "RefCOCO testA", "RefCOCOg test", "n", "failures",
    ]  # fmt: skip
    assert [(row["protocol"], row["origin"]) for row in table.rows] == [
        ("official", OURS), ("official", SCRIPT), ("shared", OURS),
    ]  # fmt: skip
    first, script, shared = table.rows
    assert first["refcoco/testA/ciou"] == Figure(0.5, 0.4, 0.6)
    assert (first["n"], first["failures"]) == (20, 1)
    assert script["refcoco/val/ciou"].value == 0.61 and "refcoco/testA/ciou" not in script
    assert shared["refcocog/test/ciou"].value == 0.3
    assert "No published figures of this task are at hand." in table.notes


def test_refined_masks_have_a_row_of_their_own(res):
    refined = [record("refcoco", "val", "ciou", 0.65, variant=REFINED)]
    (table,) = benchmarks([*res, *refined], NOTHING)
    rows = {row["method"]: row["refcoco/val/ciou"].value for row in table.rows if "refcoco/val/ciou" in row}
    assert rows["himtok (+SAM)"] == 0.65


def test_the_papers_rows_stand_below_with_their_sources(res):
    (table,) = benchmarks(res, PUBLISHED, ["LISA-7B (ft)"])
    theirs = {row["method"]: row for row in table.rows if row["origin"] == PAPER}
    assert theirs["HiMTok-8B (ft)"]["refcoco/val/ciou"] == Figure(0.85, mark="†")
    assert theirs["HiMTok-8B"]["refcoco/testA/ciou"].mark == "‡"
    assert theirs["LISA-7B (ft)"]["protocol"] == "per_expression" and "PSALM" not in theirs
    assert not any("HML" in name or "presumably" in name for name in theirs)
    assert [row["origin"] == PAPER for row in table.rows] == sorted(row["origin"] == PAPER for row in table.rows)
    assert "arXiv 2503.13026" in table.notes[-1]
    assert "85.0†" in layout.markdown(table)


def test_every_task_has_its_table():
    records = [
        record("grefcoco", "val", "giou", 0.5), record("grefcoco", "val", "n_acc", 0.2, n=3),
        record("reasonseg", "test", "giou", 0.5), record("refcoco-rec", "val", "acc@0.5", 0.5),
        record("ade20k-150", "val", "miou_class", 0.2), record("voc-20", "val", "miou_class", 0.8),
        record("mask-perception", "test", "accuracy", 0.6), record("refmoji", "val", "ciou", 0.5),
    ]  # fmt: skip
    tables = {table.title.partition(" (")[2][:3]: table for table in benchmarks(records, PUBLISHED)}
    assert list(tables) == ["GRE", "Rea", "REC", "OVS", "MaP"]
    assert tables["GRE"].rows[0]["n"] == 10  # the samples of the split, not those without a target alone
    heads = [column.title for column in tables["OVS"].columns]
    assert heads[3:5] == ["ADE20K (A-150) val", "PASCAL VOC val"]
    map_rows = {row["method"]: row.get("mask-perception/test/accuracy") for row in tables["MaP"].rows}
    assert map_rows["HiMTok-8B with MaP training data"] == Figure(0.818)
    assert "No published figures of this task are at hand." in tables["REC"].notes


def test_without_a_benchmark_there_is_no_table():
    assert benchmarks([record("refmoji", "val", "ciou", 0.5)], PUBLISHED) == []
