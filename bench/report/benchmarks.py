"""The papers' tables: a table for each task, a column for each split, our rows above and the papers' own below.

A row is one method, perhaps with refined masks, under one protocol. Where a release's evaluation has arithmetic of its
own, what it would print stands in a further row. The papers' figures are marked by how they came here, and their
sources are named below.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from bench.evaluate.printed import PRINTED
from bench.records import BASELINE, Record
from bench.report.layout import Column, Figure, Table
from bench.report.published import MARKS, best_graded
from bench.report.tables import INTERVALS, scores_of
from methods.registry import METHODS, method_spec

OURS, SCRIPT, PAPER = "measured here", "measured here, by the script's arithmetic", "published"
LEFT_OUT = ("ablation", "figure", "secondary quote", "small objects")  # in the names of papers' tables
SPLITS = ("val", "testA", "testB", "test")  # in this order


@dataclass(frozen=True)
class Benchmark:
    """A table. datasets: as records name them -> as the papers do, in order. metrics: name -> title; the title is left
    out of a column's head where there is one. note: what is to be said of the figures."""

    title: str
    datasets: dict[str, str]
    metrics: dict[str, str]
    note: str = ""

    def columns(self, places: Sequence[tuple[str, str]]) -> Iterator[tuple[Column, str, str, str]]:
        """(column, dataset, split, metric); places: the datasets and splits in which something was measured."""
        order = sorted(places, key=lambda place: (list(self.datasets).index(place[0]), _rank(place[1]), place[1]))
        for dataset, split in order:
            for metric, title in self.metrics.items():
                head = f"{self.datasets[dataset]} {split}" + (f" {title}" if len(self.metrics) > 1 else "")
                yield Column(f"{dataset}/{split}/{metric}", head, "percent"), dataset, split, metric


BENCHMARKS = (
    Benchmark("Referring segmentation (RES), cIoU",
              {"refcoco": "RefCOCO", "refcoco+": "RefCOCO+", "refcocog": "RefCOCOg"}, {"ciou": "cIoU"}),
    Benchmark("Generalized referring segmentation (GRES)", {"grefcoco": "gRefCOCO"},
              {"giou": "gIoU", "ciou": "cIoU", "n_acc": "N-acc"}),
    Benchmark("Reasoning segmentation (ReasonSeg)", {"reasonseg": "ReasonSeg"}, {"giou": "gIoU", "ciou": "cIoU"}),
    Benchmark("Referring comprehension (REC), Acc@0.5",
              {"refcoco-rec": "RefCOCO", "refcoco+-rec": "RefCOCO+", "refcocog-rec": "RefCOCOg"},
              {"acc@0.5": "Acc@0.5"}),
    Benchmark("Open-vocabulary segmentation (OVS), mIoU over classes",
              {"ade20k-150": "ADE20K (A-150)", "context-59": "PASCAL Context", "voc-20": "PASCAL VOC"},
              {"miou_class": "mIoU"},
              "Only classes that an image shows are asked, unless options.ask=all was given; how the papers asked is "
              "not stated."),
    Benchmark("Mask Perception (MaP), accuracy", {"mask-perception": "MaP"}, {"accuracy": "accuracy"}),
)  # fmt: skip


def benchmarks(records: Sequence[Record], figures: pd.DataFrame, others: Collection[str] = ()) -> list[Table]:
    """The tables of all tasks in which a method was measured. figures: as load_published gives them, of which those of
    our methods are shown and of the others that are named."""
    titles = tuple(method_spec(name).title for name in METHODS)
    shown = [name.startswith(titles) or name in others for name in figures["method"]]
    figures = figures.loc[pd.Series(shown, figures.index, dtype=bool)]
    ours = [record for record in scores_of(records) if not record.method.startswith(BASELINE)]
    found = []
    for each in BENCHMARKS:
        mine = [record for record in ours if record.dataset in each.datasets]
        if mine:
            found.append(_table(each, mine, figures))
    return found


def _table(benchmark: Benchmark, records: Sequence[Record], figures: pd.DataFrame) -> Table:
    wanted = list(benchmark.columns(sorted({(record.dataset, record.split) for record in records})))
    rows = [*_our_rows(records, wanted), *_their_rows(benchmark, figures, wanted)]
    used = [column for column, *_ in wanted if any(row.get(column.key) is not None for row in rows)]
    names = [Column(key, title) for key, title in
             (("method", "method"), ("protocol", "protocol"), ("origin", "figures"))]  # fmt: skip
    sources = {source: None for row in rows for source in row.get("sources", ())}
    notes = [INTERVALS, benchmark.note, *sorted({f"{r.note}." for r in records if _counts(r, wanted) and r.note})]
    if sources:
        marks = "no mark: the paper's own pages; †: a summary of it; ‡: quoted or run by others"
        notes.append(f"Published, to one decimal; {marks}. Sources: {'; '.join(sources)}.")
    else:
        notes.append("No published figures of this task are at hand.")
    counts = [Column("n", "n", "count"), Column("failures", "failures", "count")]
    return Table(benchmark.title, [*names, *used, *counts], rows, list(filter(None, notes)))


def _counts(record: Record, wanted: Sequence[tuple[Column, str, str, str]]) -> bool:
    return not record.metric.startswith(PRINTED) and record.metric in {metric for *_, metric in wanted}


def _our_rows(records: Sequence[Record], wanted: Sequence[tuple[Column, str, str, str]]) -> list[dict[str, object]]:
    rows = []
    for method, protocol in sorted({(record.label, record.protocol) for record in records}):
        for prefix, origin in (("", OURS), (PRINTED, SCRIPT)):
            mine = {(r.dataset, r.split, r.metric): r for r in records if (r.label, r.protocol) == (method, protocol)}
            cells = {
                column.key: (record, Figure(record.value, record.low, record.high))
                for column, dataset, split, metric in wanted
                if (record := mine.get((dataset, split, prefix + metric))) is not None
            }
            if cells:
                sizes = {r.place: (r.n, r.failures) for r in sorted((r for r, _ in cells.values()), key=lambda r: r.n)}
                counts = dict(zip(("n", "failures"), map(sum, zip(*sizes.values(), strict=True)), strict=True))
                figures = {key: figure for key, (_, figure) in cells.items()}
                rows.append({"method": method, "protocol": protocol, "origin": origin} | figures | counts)
    return rows


def _their_rows(
    benchmark: Benchmark, figures: pd.DataFrame, wanted: Sequence[tuple[Column, str, str, str]]
) -> list[dict[str, object]]:
    if figures.empty:
        return []
    kept = figures[~figures["table"].str.contains("|".join(LEFT_OUT), case=False)]
    kept = best_graded(kept[kept["value"].notna()])
    keys = {(benchmark.datasets[dataset], split, metric): column.key for column, dataset, split, metric in wanted}
    rows: dict[tuple[str, str], dict[str, object]] = {}
    for figure in kept.itertuples():
        key = keys.get((figure.dataset, figure.split, figure.metric))
        if key is not None:
            row = rows.setdefault((figure.method, figure.protocol), {
                "method": figure.method, "protocol": figure.protocol, "origin": PAPER, "sources": [],
            })  # fmt: skip
            row[key] = Figure(figure.value, mark=MARKS[figure.grade])
            row["sources"].append(figure.source)
    return [rows[each] for each in sorted(rows)]


def _rank(split: str) -> int:
    return SPLITS.index(split) if split in SPLITS else len(SPLITS)
