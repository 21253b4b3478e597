"""Tables are views of records: order, joins with ceilings and timings, and nothing else."""

import random
from dataclasses import replace
from pathlib import Path

from bench.evaluate.metrics.registry import EVERYWHERE, REGISTRY, Metric, mean
from bench.records import Record
from bench.report import layout, tables
from bench.report.latex import latex
from bench.report.layout import Figure, Timing
from bench.report.published import load_published, load_selection

from .conftest import score_records

PUBLISHED = Path(__file__).parents[3] / "results" / "published"


def rows(table):
    return {row["method"]: row for row in table.rows}


def test_methods_come_before_baselines(records):
    (table,) = tables.accuracy(records)
    names = ["argenseg", "himtok", "baseline:empty", "baseline:largest-object"]
    assert [row["method"] for row in table.rows] == names
    assert table.title == "refmoji val, per_expression"
    assert [cells[0] for cells in table.cells()] == ["ARGenSeg", "HiMTok", "empty mask (baseline)",
                                                    "largest object (baseline)"]  # fmt: skip


def test_a_row_joins_scores_ceiling_and_timing(records):
    found, beside = (rows(view(records)[0]) for view in (tables.accuracy, tables.overview))
    assert found["himtok"]["ciou"] == Figure(0.61, 0.61 - 0.03, 0.61 + 0.02)
    assert found["himtok"]["recon_giou"].value == 0.93  # the most tokens
    assert found["argenseg"]["recon_giou"].value == 0.96
    assert beside["himtok"]["latency_ms"] == Timing(210.4, 210.4 * 1.3)
    assert beside["himtok"]["val/ciou"] == found["himtok"]["ciou"]
    assert found["baseline:empty"]["recon_giou"] is None
    assert (found["himtok"]["n"], found["himtok"]["failures"], found["himtok"]["small_n"]) == (300, 2, 39)
    assert found["himtok"]["checkpoint"] == "aaaa"


def test_what_was_changed_has_a_table_of_its_own(records):
    lengths = [
        Record("himtok", name, value, "refmoji", "val", protocol="per_expression", variant={"early_exit": 0.05}, n=150)
        for name, value in (("giou", 0.5), ("giou_lost", 0.04), ("tokens_spent", 18.25))
    ]
    more = score_records("himtok", 0.5, tokens=8)
    (table,) = tables.ablations([*records, *more, *lengths])
    assert [row["variant"] for row in table.rows] == ["early_exit=0.05", "tokens=8", "tokens=16"]
    assert table.rows[2]["ciou"] == Figure(0.55, 0.55 - 0.03, 0.55 + 0.02)
    text = layout.markdown(table)
    assert "18.2" in text and "4.0" in text
    assert tables.ablations([r for r in records if r.kind != "score" or not (r.variant or r.tokens)]) == []


def test_mask_perception_stands_beside_chance(records):
    asked = [
        Record("himtok", name, value, "refmoji", "val", "perception", n=300, low=value, high=value)
        for name, value in (("accuracy", 0.6), ("likeliest", 0.7), ("chance", 0.25), ("failures", 0.01))
    ]
    (table,) = tables.perception([*records, *asked])
    assert table.rows[0]["accuracy"] == Figure(0.6, 0.6, 0.6)
    line = layout.markdown(table).splitlines()[4].split()
    assert " ".join(line) == "| HiMTok | 60.0 ± 0.0 | 70.0 ± 0.0 | 25.0 ± 0.0 | 1.0 ± 0.0 | 300 |"
    assert tables.perception(records) == []
    assert layout.markdown(*tables.accuracy([*records, *asked])) == layout.markdown(*tables.accuracy(records))


def test_order_of_the_records_does_not_matter(records):
    shuffled = random.Random(0).sample(records, len(records))
    for view in (tables.overview, tables.accuracy, tables.ablations, tables.latency, tables.reconstruction):
        for face in (layout.markdown, layout.to_csv, latex):
            assert face(*view(shuffled)) == face(*view(records))


def test_accuracy_does_not_depend_on_timing_or_date(records):
    later = [replace(r, date="2031-01-01", value=r.value * (2 if r.kind == "latency" else 1)) for r in records]
    for face in (layout.markdown, layout.to_csv, latex):
        assert face(*tables.accuracy(later)) == face(*tables.accuracy(records))
        assert face(*tables.reconstruction(later)) == face(*tables.reconstruction(records))
    assert layout.markdown(*tables.overview(later)) != layout.markdown(*tables.overview(records))


def difference(method, against, split, low, high):
    value, place = (low + high) / 2, ("refmoji", split, "difference", "per_expression")
    return Record(method, "ciou", value, *place, low=low, high=high, against={"method": against})


def test_splits_stand_side_by_side_and_only_what_is_sure_is_bold(records):
    test = [replace(r, split="testA") for r in tables.scores_of(records)]
    sure = [difference("himtok", "argenseg", "val", -0.2, -0.01), difference("himtok", "argenseg", "testA", -0.2, 0.01)]
    (table,) = tables.overview([*records, *test, *sure])
    assert [column.group for column in table.shown if column.title == "cIoU"] == ["val (300)", "testA (300)"]
    found = rows(table)
    assert found["argenseg"]["val/ciou"].best and not found["argenseg"]["testA/ciou"].best
    assert not found["himtok"]["val/ciou"].best and not found["baseline:empty"]["val/ciou"].best
    assert "**" in layout.markdown(table) and r"\bfseries " in latex(table) and "<b>" in layout.html(table)
    assert "val (300) cIoU" in layout.markdown(table) and 'colspan="' in layout.html(table)
    third = difference("polygon", "argenseg", "val", 0.1, 0.2)  # of a method that was not scored
    assert rows(tables.overview([*records, *sure[:1], third])[0])["argenseg"]["val/ciou"].best


def test_protocols_and_splits_never_share_a_table(records):
    other = [replace(r, protocol="per_object_joined") for r in tables.scores_of(records)]
    test = [replace(r, split="testA") for r in tables.scores_of(records)]
    titles = [table.title for table in tables.accuracy([*test, *other, *records])]
    assert titles == [
        "refmoji val, per_expression",
        "refmoji testA, per_expression",
        "refmoji val, per_object_joined",
    ]


def test_figures_of_samples_without_a_target_are_shown_where_there_are_any(records):
    mine = [r for r in tables.scores_of(records) if r.method == "himtok" and r.metric != "ciou"]  # a union of 0
    extra = [replace(mine[0], metric=metric, value=0.75, n=40) for metric in ("n_acc", "pr@0.7")]
    (table,) = tables.accuracy([*mine, *extra])
    titles = [column.title for column in table.shown]
    assert "N-acc" in titles and "Pr@0.7" in titles and "T-acc" not in titles
    assert (rows(table)["himtok"]["n_acc"].value, rows(table)["himtok"]["n"]) == (0.75, 300)
    assert "an empty mask says that there is no target" in table.notes[-1]
    assert "N-acc" not in [column.title for column in tables.accuracy(records)[0].shown]


def test_latency_has_every_stage_in_order(records):
    (table,) = tables.latency(records)
    names = [
        "method",
        "vision",
        "mask",
        "mask tokenizer",
        "resize",
        "extra",
        "total",
        "steps",
        "mask tokens",
        "peak MiB",
        "n",
    ]
    assert [column.title for column in table.shown] == names
    found = rows(table)
    assert found["himtok"]["mask"] == Timing(120.0, 156.0)
    assert found["himtok"]["mask_tokenizer"] is None
    assert (found["himtok"]["steps"], found["himtok"]["peak_mib"], found["himtok"]["n"]) == (34, 1234.5, 200)
    assert "a processor, 2 threads, float32, refmoji, 10 warm-ups" in table.title


def test_each_dataset_has_times_of_its_own(records):
    """And its scores stand beside them; a dataset that was not timed takes another's."""
    timed = [r for r in records if r.kind == "latency"]
    slower = [replace(r, dataset="refcoco", value=2 * r.value) for r in timed]
    scores = [replace(r, dataset=name) for name in ("refcoco", "refcocog") for r in score_records("himtok", 0.5)]
    latencies = tables.latency([*records, *slower])
    assert [rows(table)["himtok"]["total"].median for table in latencies] == [420.8, 210.4]
    assert [", refcoco, " in table.title for table in latencies] == [True, False]
    for order in (1, -1):
        shown = tables.overview([*records, *scores, *[*timed, *slower][::order]])
        totals = {table.title.split()[0]: rows(table)["himtok"]["latency_ms"].median for table in shown}
        assert (totals["RefCOCO,"], totals["RefMoji,"]) == (420.8, 210.4)
        assert totals["RefCOCOg,"] in (420.8, 210.4)


def test_reconstruction_rises_with_its_tokens(records):
    (table,) = tables.reconstruction(records)
    assert [(row["method"], row["tokens"]) for row in table.rows][:6] == [
        ("argenseg", 1), ("argenseg", 5), ("argenseg", 30), ("argenseg", 155), ("argenseg", 680), ("himtok", 1),
    ]  # fmt: skip
    assert table.rows[-1]["giou"].value == 0.93
    assert "giou@small" in table.rows[-1]


def test_published_rows_are_marked_by_grade():
    table = tables.published(load_published(PUBLISHED), load_selection(PUBLISHED))
    himtok = rows(table)["HiMTok-8B"]
    assert (himtok["RefCOCO/ciou"], himtok["RefCOCO/small_ciou"]) == (Figure(0.811, mark="†"), Figure(0.6715))
    assert "RefCOCO/giou" not in himtok  # others ran it, and the paper has none
    assert rows(table)["LISA-7B (ft)"]["protocol"] == "per_expression"
    assert len(tables.published_list(load_published(PUBLISHED)).rows) > 200


def test_a_new_metric_stands_in_the_tables_without_more(records, monkeypatch):
    monkeypatch.setitem(REGISTRY, "new", Metric("new", "New", mean, lambda s: s.iou))
    monkeypatch.setattr(tables, "SCORES", tables._columns(EVERYWHERE))
    (table,) = tables.accuracy([*records, replace(tables.scores_of(records)[0], metric="new", value=0.25)])
    assert "New" in [column.title for column in table.shown]
