"""The tables: views of records, with nothing measured or rounded anywhere else.

`accuracy` holds every score and no timing, so its bytes follow from the predictions alone. `main_tables` adds the
median latency; `latency` has the stages. Published figures get a block of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas as pd

from bench.evaluate.metrics.no_target import THRESHOLDS as PRECISION_THRESHOLDS
from bench.evaluate.metrics.overlap import SMALL_FRACTION
from bench.records import BREAKDOWN, CODEC, LATENCY, PERCEPTION, UNSCORED, Record
from bench.report.layout import Column, Figure, Table, Timing
from bench.report.published import GRADES, best_graded

STAGES = ("vision", "prefill", "text", "mask", "codec", "resize")
MARKS = dict(zip(GRADES, ("", "†", "‡"), strict=True))
PUBLISHED_METHODS = ("HiMTok-8B", "HiMTok-8B (ft)", "ARGenSeg", "ARGenSeg (ft)", "PSALM", "LISA-7B (ft)")

SCORES = (
    Column("ciou", "cIoU", "percent"),
    Column("giou", "gIoU", "percent"),
    Column("small_ciou", "small cIoU", "percent"),
    Column("bf_score", "BF-score", "percent"),
    Column("acc@0.5", "Acc@0.5", "percent"),
    Column("acc@0.7", "Acc@0.7", "percent"),
    Column("acc@0.9", "Acc@0.9", "percent"),
    Column("mask_acc@0.9", "Acc@0.9 (mask's box)", "percent"),
)
GENERALISED = (  # where samples have no target
    Column("n_acc", "N-acc", "percent"),
    Column("t_acc", "T-acc", "percent"),
    *(Column(f"pr@{threshold}", f"Pr@{threshold}", "percent") for threshold in PRECISION_THRESHOLDS),
)
CODEC_SCORES = (
    Column("giou", "gIoU", "percent"),
    Column("ciou", "cIoU", "percent"),
    Column("bf_score", "BF-score", "percent"),
    Column("small_ciou", "small cIoU", "percent"),
    Column("mask_acc@0.9", "Acc@0.9 (mask's box)", "percent"),
    Column("giou@small", "gIoU, area < 32²", "percent"),
    Column("giou@medium", "gIoU, 32² to 96²", "percent"),
    Column("giou@large", "gIoU, larger", "percent"),
)
CEILING = Column("codec_giou", "codec ceiling gIoU", "percent")
SPEED = Column("latency_ms", "latency ms, median (p90)", "time")
COUNTS = (Column("failures", "failures", "count"), Column("n", "n", "count"))
PLACE = tuple(Column(name, "") for name in ("dataset", "split", "protocol"))  # in the CSV; the title says it elsewhere
ORIGIN = (Column("small_n", "", "count"), Column("checkpoint", ""), Column("backbone", ""))
INTERVALS = "Percent, ± half of the 95 % interval of a bootstrap over images; the CSV has both bounds."


def label(record: Record) -> str:
    """The name of a row: the method, and what sets it apart from its siblings."""
    return f"{record.method} ({record.variant})" if record.variant else record.method


def tokens_of(variant: str) -> int | None:
    """The number of mask tokens that a variant names, as in "tokens=16"."""
    match = re.search(r"\btokens=(\d+)", variant)
    return int(match.group(1)) if match else None


def base_of(variant: str) -> str:
    """The variant without its number of tokens."""
    return ", ".join(part for part in variant.split(", ") if part and not part.startswith("tokens="))


def row_order(name: str) -> tuple[bool, str]:
    """Methods by name, trivial baselines below them."""
    return name.startswith("baseline:"), name


def scores_of(records: Iterable[Record]) -> list[Record]:
    """The records of generations as the methods are meant: no ceilings, no speed, no ablations."""
    return [r for r in records if r.protocol not in UNSCORED and not r.variant]


def ablated(records: Iterable[Record]) -> list[Record]:
    """The records of generations with one thing changed, which the variant names; those per expression come last, so
    that they are the ones that stay where only one protocol can."""
    changed = [r for r in records if r.protocol not in UNSCORED and r.variant]
    return sorted(changed, key=lambda record: record.protocol == "per_expression")


def accuracy(records: Sequence[Record]) -> list[Table]:
    """One table per dataset, split and protocol; a row per method, trivial baselines below."""
    columns = (*SCORES, *GENERALISED, CEILING, *COUNTS)
    return [_score_table(records, place, columns) for place in _places(scores_of(records))]


def main_tables(records: Sequence[Record]) -> list[Table]:
    """The same with the median latency of each method."""
    tables = []
    for place in _places(scores_of(records)):
        table = _score_table(records, place, (*SCORES, *GENERALISED, CEILING, SPEED, *COUNTS))
        devices = sorted({r.device for r in records if r.protocol == LATENCY and r.device})
        notes = [f"Latency: batch 1, from the image's file to the mask at the image's size, on {'; '.join(devices)}."]
        tables.append(replace(table, notes=[*table.notes, *(notes if devices else [])]))
    return tables


def ablations(records: Sequence[Record]) -> list[Table]:
    """One table per dataset, split and protocol: a row per method and variant."""
    changed = ablated(records)
    extra = (Column("giou_lost", "gIoU lost", "percent"), Column("tokens_spent", "tokens spent", "number"))
    measured = {record.metric for record in changed}
    used = [column for column in (*SCORES, *GENERALISED, *extra) if column.key in measured]
    columns = [*PLACE, Column("method", "method"), Column("variant", "variant"), *used, *COUNTS]
    tables = []
    for place in _places(changed):
        here = [record for record in changed if (record.dataset, record.split, record.protocol) == place]
        rows = []
        for method, variant in sorted({(record.method, record.variant) for record in here}, key=_variant_order):
            mine = [record for record in here if (record.method, record.variant) == (method, variant)]
            row = _figures(mine) | {"method": method, "variant": variant}
            row["tokens_spent"] = next((record.value for record in mine if record.metric == "tokens_spent"), None)
            row |= {"n": max(record.n for record in mine), "failures": max(record.failures for record in mine)}
            rows.append(row | dict(zip(("dataset", "split", "protocol"), place, strict=True)))
        tables.append(Table("Ablations: {} {}, {}".format(*place), columns, rows, [INTERVALS]))
    return tables


def _variant_order(name: tuple[str, str]) -> tuple[object, ...]:
    """Numbers within a variant's name count as numbers: tokens=8 stands before tokens=16."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name[1])
    return name[0], [(0, float(part), "") if i % 2 else (1, 0.0, part) for i, part in enumerate(parts)]


def perception(records: Sequence[Record]) -> list[Table]:
    """Accuracy of choosing the expression that fits a mask, in words and by likelihood, beside chance."""
    asked = [record for record in records if record.protocol == PERCEPTION]
    titles = {"accuracy": "written answer", "likeliest": "likeliest answer", "chance": "chance", "failures": "failures"}
    rows = []
    for method in sorted({record.method for record in asked}):
        mine = {record.metric.removeprefix("perception/"): record for record in asked if record.method == method}
        row: dict[str, object] = dict(_figures(mine[name] for name in titles if name in mine))
        row = {name.removeprefix("perception/"): figure for name, figure in row.items()}
        rows.append(row | {"method": method, "n": mine["accuracy"].n})
    columns = [
        Column("method", "method"),
        *(Column(name, title, "percent") for name, title in titles.items()),
        COUNTS[1],
    ]
    return [Table("Mask perception: the expression that fits a given mask", columns, rows, [INTERVALS])] if rows else []


def breakdowns(records: Sequence[Record]) -> list[Table]:
    """Grounding and drawing by the facts of the question, one table per dataset and split."""
    asked = [record for record in records if record.protocol == BREAKDOWN]
    columns = [Column("method", "method"), Column("group", "questions")] + [
        Column(key, title, "percent")
        for key, title in (
            ("right_object", "right object"), ("giou_right", "gIoU of those"), ("giou", "gIoU"), ("ciou", "cIoU")
        )
    ] + [COUNTS[1]]  # fmt: skip
    tables = []
    for dataset, split, _ in _places(asked):
        here = [record for record in asked if (record.dataset, record.split) == (dataset, split)]
        rows: dict[tuple[str, str], dict[str, object]] = {}
        for record in here:
            row = rows.setdefault((record.method, record.variant), {"method": record.method, "group": record.variant})
            row |= {record.metric: Figure(record.value, record.low, record.high), "n": record.n}
        notes = ["Right object: the mask overlaps the target more than any other object of the image.", INTERVALS]
        title = f"What limits the scores — {dataset} {split}, per expression"
        tables.append(Table(title, columns, [rows[key] for key in sorted(rows)], notes))
    return tables


def published(figures: pd.DataFrame) -> Table:
    """What the papers print for RefCOCO, RefCOCO+ and RefCOCOg val, one row per method and dataset."""
    wanted = figures[
        figures["method"].isin(PUBLISHED_METHODS)
        & figures["dataset"].isin(["RefCOCO", "RefCOCO+", "RefCOCOg"])
        & (figures["split"] == "val")
        & figures["metric"].isin([column.key for column in SCORES])
    ]
    wanted = best_graded(wanted)
    rows = []
    for (method, dataset), cells in wanted.groupby(["method", "dataset"], sort=False):
        row = {"method": method, "dataset": dataset, "protocol": cells["protocol"].iloc[0]}
        for cell in cells.itertuples():
            row[cell.metric] = Figure(cell.value, mark=MARKS[cell.grade])
        row["grade"] = ", ".join(grade for grade in GRADES if grade in set(cells["grade"]))
        rows.append(row)
    rows.sort(key=lambda row: (PUBLISHED_METHODS.index(row["method"]), row["dataset"]))
    used = [column for column in SCORES if any(column.key in row for row in rows)]
    return Table(
        title="Published figures, val (other data and models; not comparable with the rows above)",
        columns=[
            *(Column(name, name) for name in ("method", "dataset")),
            *used,
            *(Column(n, n) for n in ("protocol", "grade")),
        ],
        rows=rows,
        notes=[
            "Percent, to one decimal. No mark: the paper's own pages; †: a summary of it; ‡: quoted by somebody else. "
            "(ft): fine-tuned, HiMTok on the RefCOCO family; ARGenSeg's paper does not say on what. Rows of different "
            "protocols do not compare with each other."
        ],
    )


def published_list(figures: pd.DataFrame) -> Table:
    """Every published figure with its source."""
    names = ("table", "method", "dataset", "split", "protocol", "metric", "printed", "grade", "source")
    rows = figures[list(names)].to_dict("records")
    for row in rows:
        row["dataset"] = re.sub(r"\(?dataset not stated.*|not stated in.*", "(not stated)", row["dataset"])
    return Table("All published figures, as printed", [Column(name, name) for name in names], rows)


def latency(records: Sequence[Record]) -> list[Table]:
    """One table per device, precision and dataset: stages, steps, tokens and memory of each method."""
    timed = [record for record in records if record.protocol == LATENCY]
    stages = _stages(timed)
    columns = [
        Column("device", ""),
        Column("precision", ""),
        Column("dataset", ""),
        Column("method", "method"),
        *(Column(stage, stage, "time") for stage in stages),
        Column("total", "total", "time"),
        Column("steps", "steps", "count"),
        Column("tokens", "mask tokens", "count"),
        Column("peak_mib", "peak MiB", "count"),
        Column("n", "n", "count"),
    ]
    tables = []
    for place in sorted({(record.device, record.precision, record.dataset) for record in timed}):
        device, precision, dataset = place
        here = [record for record in timed if (record.device, record.precision, record.dataset) == place]
        names = sorted({label(record) for record in here}, key=row_order)
        facts = {"device": device, "precision": precision, "dataset": dataset}
        rows = [facts | _latency_row(here, name, stages) for name in names]
        setting = ", ".join(filter(None, [device, precision, dataset, *sorted({record.note for record in here})]))
        tables.append(
            Table(
                f"Latency per image in ms: median (90th percentile) — {setting}",
                columns,
                rows,
                [
                    "One request at a time. The total has a pass of its own, so the stages need not add up to it. "
                    "Steps: forward passes of the language model, the prefill included."
                ],
            )
        )
    return tables


def codec(records: Sequence[Record]) -> list[Table]:
    """The codec's ceiling: ground truth after encoding and decoding, by number of tokens and by object size."""
    columns = [
        *PLACE[:2],
        Column("method", "codec"),
        Column("tokens", "tokens", "count"),
        *CODEC_SCORES,
        Column("n", "n", "count"),
    ]
    ceilings = [record for record in records if record.protocol == CODEC]
    tables = []
    for dataset, split, _ in _places(ceilings):
        here = [record for record in ceilings if (record.dataset, record.split) == (dataset, split)]
        keys = {(_codec_name(record), tokens_of(record.variant) or 0) for record in here}
        rows = []
        for name, tokens in sorted(keys):
            mine = [r for r in here if (_codec_name(r), tokens_of(r.variant) or 0) == (name, tokens)]
            row = _figures(mine) | {"dataset": dataset, "split": split, "method": name, "tokens": tokens or None}
            rows.append(row | {"n": next((r.n for r in mine if r.metric == "giou"), None)})
        notes = [
            "The true mask, encoded and decoded: no answer of the method can score higher than about this.",
            INTERVALS,
        ]
        tables.append(Table(f"Codec ceiling — {dataset} {split}", columns, rows, notes))
    return tables


def _places(records: Iterable[Record]) -> list[tuple[str, str, str]]:
    """Datasets, splits and protocols in which something was measured; val before the other splits."""
    found = {(record.dataset, record.split, record.protocol) for record in records}
    return sorted(found, key=lambda place: (place[0], place[2], place[1] != "val", place[1]))


def _score_table(records: Sequence[Record], place: tuple[str, str, str], columns: Sequence[Column]) -> Table:
    dataset, split, protocol = place
    here = [r for r in scores_of(records) if (r.dataset, r.split, r.protocol) == place]
    rows = []
    for name in sorted({record.method for record in here}, key=row_order):
        mine = [record for record in here if record.method == name]
        first = next((record for record in mine if record.metric in ("ciou", "giou")), mine[0])
        row = _figures(mine) | {"method": name, "n": first.n, "failures": first.failures}
        row |= {"checkpoint": first.checkpoint, "backbone": first.backbone}
        row["codec_giou"] = _ceiling(records, first)
        row["latency_ms"] = whole_time(records, first)
        row["small_n"] = next((record.n for record in mine if record.metric == "small_ciou"), 0)
        rows.append(row | dict(zip(("dataset", "split", "protocol"), place, strict=True)))
    small, total = max(row["small_n"] for row in rows), max(row["n"] for row in rows)
    small_note = f"small cIoU: the {small} of {total} samples below {100 * SMALL_FRACTION:.0f} % of the image."
    notes = [INTERVALS, *([small_note] if small else [])]
    unused = {column.key for column in GENERALISED if not any(column.key in row for row in rows)}
    if len(unused) < len(GENERALISED):
        notes.append("N-acc, T-acc: an empty mask says that there is no target. Pr: of the samples with one.")
    notes += sorted({f"{record.note}." for record in here if record.metric == "giou" and record.note})
    columns = [*PLACE, Column("method", "method"), *(c for c in columns if c.key not in unused), *ORIGIN]
    return Table(f"{dataset} {split}, {protocol}", columns, rows, notes)


def _figures(records: Iterable[Record]) -> dict[str, Figure]:
    return {record.metric: Figure(record.value, record.low, record.high) for record in records}


def _ceiling(records: Iterable[Record], row: Record) -> Figure | None:
    """The gIoU of the row's codec with all tokens."""
    candidates = {
        tokens_of(record.variant) or 0: record
        for record in records
        if (record.protocol, record.metric) == (CODEC, "giou")
        and (record.method, record.dataset, record.split) == (row.method, row.dataset, row.split)
        and not base_of(record.variant)
    }
    best = candidates.get(max(candidates, default=0))
    return Figure(best.value, best.low, best.high) if best else None


def whole_time(records: Iterable[Record], row: Record) -> Timing | None:
    """The time of whole requests to what the row's record is of, on its dataset; on another if only that was timed."""
    mine = [r for r in records if r.protocol == LATENCY and (r.method, r.variant) == (row.method, row.variant)]
    mine.sort(key=lambda record: record.dataset == row.dataset)
    timed = {record.metric: record.value for record in mine}
    median = timed.get("latency/total/median_ms")
    return None if median is None else Timing(median, timed.get("latency/total/p90_ms"))


def _stages(timed: Iterable[Record]) -> list[str]:
    """The stages that were timed, the known ones in their order, others behind them."""
    found = {r.metric.split("/")[1] for r in timed if r.metric.endswith("/median_ms")} - {"total"}
    found = {stage for stage in found if not stage.startswith("step ")}  # these stand in the roofline's table
    return [stage for stage in STAGES if stage in found] + sorted(found - set(STAGES))


def _latency_row(records: Iterable[Record], name: str, stages: Sequence[str]) -> dict[str, object]:
    mine = {record.metric: record for record in records if label(record) == name}
    row: dict[str, object] = {"method": name, "n": max(record.n for record in mine.values())}
    for stage in (*stages, "total"):
        median, p90 = (mine.get(f"latency/{stage}/{share}_ms") for share in ("median", "p90"))
        row[stage] = median and Timing(median.value, p90.value if p90 else None)
    for name in ("steps", "tokens", "peak_mib"):
        row[name] = mine[f"latency/{name}"].value if f"latency/{name}" in mine else None
    return row


def _codec_name(record: Record) -> str:
    extra = base_of(record.variant)
    return f"{record.method} ({extra})" if extra else record.method
