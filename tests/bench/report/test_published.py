"""The papers' figures: read as printed, named alike, graded, never mixed up."""

import math
from pathlib import Path

import pytest

from bench.records import Record
from bench.report.published import best_graded, load_published, load_selection
from bench.report.tables import accuracy, published
from methods.base import UserError

FOLDER = Path(__file__).parents[3] / "results" / "published"


@pytest.fixture(scope="module")
def figures():
    return load_published(FOLDER)


def one(figures, **where):
    for name, value in where.items():
        figures = figures[figures[name] == value]
    assert len(figures) == 1
    return figures.iloc[0]


def test_scores_are_fractions_and_prints_are_kept(figures):
    row = one(figures, method="HiMTok-8B", dataset="RefCOCO+", split="testB", metric="small_ciou")
    assert (row.value, row.printed, row.grade, row.protocol) == (0.4829, "48.29", "primary", "per_object_joined")
    assert one(figures, method="PSALM", metric="bf_score").value == 0.936
    assert one(figures, method="HiMTok-8B, 32 mask tokens then box", metric="acc@0.9").value == 0.78
    assert math.isnan(one(figures, method="ARGenSeg vs Emu3").value)
    assert one(figures, method="single-scale visual tokenizer (ablation)").value == 5.5
    assert one(figures, dataset="ADE20K (A-150)", method="PSALM").metric == "miou_class"
    scores = figures[figures["metric"].isin(["ciou", "giou", "small_ciou", "bf_score", "acc@0.5"])]
    assert scores["value"].between(0, 1).all()


def test_every_row_is_kept(figures):
    lines = sum(len(path.read_text().splitlines()) - 1 for path in FOLDER.glob("*.csv"))
    assert len(figures) == lines


def test_one_spelling_per_method_and_dataset(figures):
    """No two methods whose names differ in spaces, brackets or capitals alone."""
    plain = {name: "".join(c for c in name.lower() if c.isalnum() or c == "+") for name in set(figures["method"])}
    assert len(set(plain.values())) == len(plain)


def test_the_selected_figures_are_there(figures):
    selection = load_selection(FOLDER)
    assert set(selection.methods) <= set(figures["method"]) and set(selection.datasets) <= set(figures["dataset"])


def test_protocols_follow_the_papers(figures):
    protocols = figures.drop_duplicates("method").set_index("method")["protocol"]
    assert protocols["ARGenSeg (ft)"] == protocols["PSALM"] == "per_object_joined"
    assert protocols["LISA-7B (ft)"] == protocols["PixelLM-7B"] == "per_expression"
    assert protocols["u-LLaVA"] == "not stated"


def test_boxes_are_asked_for_sentence_by_sentence(figures):
    assert one(figures, method="HiMTok-8B, 32 mask tokens then box", metric="acc@0.9").protocol == "per_expression"


def test_what_others_ran_is_no_row_of_the_paper_s(figures):
    """Their cIoU on RefCOCO val is 4.8 points from the paper's, so their gIoU does not belong beside it."""
    theirs = figures[figures["method"] == "HiMTok-8B, as run by others"]
    assert set(theirs["source"].str.contains("own runs")) == {True}
    assert one(theirs, dataset="RefCOCO", split="val", metric="ciou").value == 0.859
    own = figures[(figures["method"] == "HiMTok-8B") & (figures["dataset"] == "RefCOCO") & (figures["split"] == "val")]
    assert "giou" not in set(own["metric"])


def test_secondary_prints_stand_back(figures):
    best = best_graded(figures)
    row = one(best, method="ARGenSeg", dataset="RefCOCO", split="val", metric="ciou")
    assert (row.value, row.grade) == (0.822, "summary")  # a review's 86.3 belongs to the fine-tuned model
    assert one(best, method="HiMTok-8B", dataset="RefCOCO", split="testA", metric="ciou").grade == "secondary"


@pytest.mark.parametrize(
    ("method", "dataset", "split", "metric", "value", "protocol", "grade"),
    [
        ("LISA-7B (ft)", "RefCOCO", "testA", "ciou", 0.791, "per_expression", "primary"),
        ("LISA-7B", "ReasonSeg", "val", "giou", 0.444, "per_expression", "primary"),
        ("PixelLM-7B", "RefCOCOg", "test", "ciou", 0.705, "per_expression", "secondary"),
        ("PSALM", "RefCOCO+", "testB", "ciou", 0.701, "per_object_joined", "secondary"),
        ("LaSagnA", "RefCOCO", "val", "ciou", 0.768, "not stated", "secondary"),
        ("Sa2VA-8B", "RefCOCOg", "val", "ciou", 0.789, "per_expression", "primary"),
        ("Qwen2.5VL-3B-SAMTok (rl)", "gRefCOCO", "val", "n_acc", 0.815, "not stated", "summary"),
        ("STAMP-7B", "RefCOCO+", "val", "ciou", 0.794, "not stated", "summary"),
        ("Text4Seg++-7B", "RefCOCO", "val", "ciou", 0.816, "not stated", "secondary"),
        ("UFO-InternVL2.5-8B (ft)", "RefCOCO", "val", "ciou", 0.81, "not stated", "primary"),
    ],
)  # fmt: skip
def test_other_systems_have_rows_with_protocol_and_grade(
    figures, method, dataset, split, metric, value, protocol, grade
):
    row = one(best_graded(figures), method=method, dataset=dataset, split=split, metric=metric)
    assert (row.value, row.protocol, row.grade) == (value, protocol, grade)


def test_every_figure_has_a_source_and_a_protocol(figures):
    assert all(figures[name].str.strip().all() for name in ("method", "metric", "printed", "protocol", "source"))
    assert set(figures["protocol"]) == {"per_expression", "per_object_joined", "not stated"}
    sources = figures[~figures["source"].str.contains("ARGenSeg|HiMTok|notes on|ContourVLA|GLaMM")]["source"]
    assert sources.str.contains(r"arXiv \d{4}\.\d{5}").all()


def test_published_figures_are_never_beside_measured_ones(figures):
    measured = Record(method="himtok", metric="ciou", value=0.5, dataset="refcoco", split="val", kind="score")
    (table,) = accuracy([measured])
    assert [row["method"] for row in table.rows] == ["himtok"]
    beside = published(figures, load_selection(FOLDER))
    assert "not comparable" in beside.title and {row["protocol"] for row in beside.rows} >= {"per_expression"}


def test_broken_files_are_named(tmp_path):
    assert load_published(tmp_path).empty
    (tmp_path / "x.csv").write_text("table,method\na,b\n")
    with pytest.raises(UserError, match=r"x\.csv: no column 'dataset'"):
        load_published(tmp_path)
    (tmp_path / "x.csv").write_text(
        "table,method,dataset,split,protocol,metric,value,source,grade\na,b,c,d,p,e,1,g,hearsay\n"
    )
    with pytest.raises(UserError, match="unknown grade 'hearsay'"):
        load_published(tmp_path)
