"""The table of image understanding: what lmms-eval measured (`genseg import-lmms`)."""

from __future__ import annotations

from collections.abc import Sequence

from bench.records import UNDERSTANDING, Record
from bench.report.layout import Column, Table

COLUMNS = (
    Column("dataset", "task"), Column("split", "split"), Column("metric", "metric"),
    Column("method", "method", "method"), Column("shown", "value"), Column("value", "", "number"),
    Column("low", "", "number"), Column("high", "", "number"),
    Column("failures", "empty answers", "count"), Column("n", "n", "count"), Column("note", "note"),
    Column("protocol", ""), Column("checkpoint", ""), Column("precision", ""), Column("date", ""),
)  # fmt: skip
SCALES = "Metrics and scales are each task's own; ± half of the 95 % interval, from the harness's standard error."
GROUNDING = (
    "refcoco_grounding reads every box of an answer in pixels and in thousandths and keeps whichever is nearest to the "
    "ground truth, so its figures are no lower than Acc@ of this project."
)


def understanding(records: Sequence[Record]) -> list[Table]:
    """One table per protocol: a row per task, metric and method."""
    asked = [record for record in records if record.kind == UNDERSTANDING]
    tables = []
    for protocol in sorted({record.protocol for record in asked}):
        here = [record for record in asked if record.protocol == protocol]
        rows = [
            {column.key: getattr(record, column.key) for column in COLUMNS if column.key != "shown"}
            | {"shown": _shown(record)}
            for record in sorted(here, key=lambda each: (each.dataset, each.split, each.metric, each.method))
        ]
        notes = [SCALES, *([GROUNDING] if any("grounding" in record.dataset for record in here) else [])]
        tables.append(Table(f"Image understanding, {protocol}", COLUMNS, rows, notes))
    return tables


def _shown(record: Record) -> str:
    half = "" if record.low is None or record.high is None else f" ± {(record.high - record.low) / 2:.2g}"
    return f"{record.value:.4g}{half}"
