"""The tables: views of records, with nothing measured or rounded anywhere else.

`accuracy` holds every score and no timing, so its bytes follow from the predictions alone. `overview` has the headline
scores of all splits side by side, with the median latency; `latency` has the stages. Published figures get a block of
their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas as pd

from bench.evaluate.metrics.overlap import SMALL_FRACTION
from bench.evaluate.metrics.registry import EVERYWHERE, OCCASIONAL, RECONSTRUCTIONS, REGISTRY
from bench.records import (
    BASELINE,
    BREAKDOWN,
    DIFFERENCE,
    LATENCY,
    PERCEPTION,
    RECONSTRUCTION,
    REFINED,
    SCORE,
    Record,
    describe,
)  # fmt: skip
from bench.report.layout import Column, Figure, Table, Timing
from bench.report.names import place_name
from bench.report.published import MARKS, Selection, best_graded

STAGES = ("vision", "prefill", "text", "mask", "mask_tokenizer", "resize")


def _columns(*places: str) -> tuple[Column, ...]:
    """The registered metrics that the tables of some kinds show."""
    return tuple(Column(m.name, m.title, "percent") for m in REGISTRY.values() if m.where in places)


SCORES = _columns(EVERYWHERE)
RECONSTRUCTION_SCORES = _columns(EVERYWHERE, RECONSTRUCTIONS)
BOUND = Column("recon_giou", "reconstruction bound gIoU", "percent")
COUNTS = (Column("failures", "failures", "count"), Column("n", "n", "count"))
PLACE = tuple(Column(name, "") for name in ("dataset", "split", "protocol"))  # in the CSV; the title says it elsewhere
ORIGIN = (Column("small_n", "", "count"), Column("checkpoint", ""), Column("backbone", ""))
BEST = "Bold: the best of a column, where the 95 % interval of the paired difference to every other method excludes 0."
INTERVALS = "Percent, ± half of the 95 % interval of a bootstrap over images; the CSV has both bounds."


def row_order(name: str) -> tuple[bool, str]:
    """Methods by name, trivial baselines below them."""
    return name.startswith(BASELINE), name


def scores_of(records: Iterable[Record]) -> list[Record]:
    """The scores of methods as they are meant, refined or not: no ablations."""
    return [r for r in records if r.kind == SCORE and r.variant in ({}, REFINED) and not (r.tokens or r.trainings)]


def ablated(records: Iterable[Record]) -> list[Record]:
    """The scores with one thing changed, which variant and tokens tell; those per expression come last, so that they
    are the ones that stay where only one protocol can; of those the mean over trainings."""
    changed = [r for r in records if r.kind == SCORE and (r.variant not in ({}, REFINED) or r.tokens or r.trainings)]
    return sorted(changed, key=lambda record: (record.protocol == "per_expression", record.trainings or 1))


def accuracy(records: Sequence[Record]) -> list[Table]:
    """One table per dataset, split and protocol; a row per method, trivial baselines below."""
    return [_score_table(records, place, (*SCORES, BOUND, *COUNTS)) for place in _places(scores_of(records))]


HEADLINE = (("ciou", "cIoU"), ("bf_score", "BF"), ("acc@0.9", "Acc@0.9"))


def overview(records: Sequence[Record]) -> list[Table]:
    """The headline scores of all splits side by side, a table per dataset and protocol: a row per method, trivial
    baselines below. A figure is the best of its column where the paired difference to every other method is sure."""
    found: dict[tuple[str, str], list[str]] = {}
    for dataset, split, protocol in _places(scores_of(records)):
        found.setdefault((dataset, protocol), []).append(split)
    return [_overview(records, *where, splits) for where, splits in found.items()]


def _overview(records: Sequence[Record], dataset: str, protocol: str, splits: Sequence[str]) -> Table:
    here = [r for r in scores_of(records) if (r.dataset, r.protocol) == (dataset, protocol)]
    used = {(r.split, r.metric) for r in here}
    columns, rows = [], {label: {"method": label} for label in sorted({r.label for r in here}, key=row_order)}
    for split in splits:
        sizes = {r.n for r in here if r.split == split and r.metric in ("ciou", "giou")}
        group = f"{split} ({max(sizes):,})" if sizes else split
        columns += [Column(f"{split}/{metric}", title, "percent", group) for metric, title in HEADLINE
                    if (split, metric) in used]  # fmt: skip
    gaps = [r for r in records if r.kind == DIFFERENCE and "method" in r.against and not (r.variant or r.trainings)]
    for record in here:
        best = _beats_all(record, [other for other in here if other.place == record.place], gaps)
        rows[record.label][f"{record.split}/{record.metric}"] = Figure(record.value, record.low, record.high, "", best)
        rows[record.label].setdefault("failures", 0)
        if record.metric in ("ciou", "giou"):
            rows[record.label]["latency_ms"] = whole_time(records, record)
    columns = [Column("method", "method", "method"), *columns, Column("latency_ms", "latency, ms", "time")]
    devices = sorted({r.device for r in records if r.kind == LATENCY and r.device})
    notes = [INTERVALS, *([BEST] if gaps else [])]
    notes += [f"Latency: median (90th percentile) of single requests on {'; '.join(devices)}."] if devices else []
    return Table(place_name(dataset, "", protocol).replace(" ,", ","), columns, list(rows.values()), notes)


def _beats_all(record: Record, others: Sequence[Record], gaps: Sequence[Record]) -> bool:
    """Whether a score is surely above that of every other method, trivial baselines apart, by paired differences."""
    rivals = {other.method for other in others if not other.method.startswith(BASELINE)} - {record.method}
    sure = set()
    for gap in gaps:
        if (gap.place, gap.metric) != (record.place, record.metric) or gap.low is None or gap.high is None:
            continue
        if gap.method == record.method and gap.low > 0:
            sure.add(gap.against["method"])
        if gap.against["method"] == record.method and gap.high < 0:
            sure.add(gap.method)
    return bool(rivals) and rivals <= sure and not record.variant


def ablations(records: Sequence[Record]) -> list[Table]:
    """One table per dataset, split and protocol: a row per method and variant."""
    changed = ablated(records)
    extra = (Column("giou_lost", "gIoU lost", "percent"), Column("tokens_spent", "tokens spent", "number"))
    measured = {record.metric for record in changed}
    used = [column for column in (*SCORES, *extra) if column.key in measured]
    columns = [*PLACE, Column("method", "method", "method"), Column("variant", "variant"), *used, *COUNTS]
    tables = []
    for place in _places(changed):
        here = [record for record in changed if record.place == place]
        rows = []
        for subject in sorted({(record.method, *_order(record)): record.subject for record in here}.items()):
            mine = [record for record in here if record.subject == subject[1]]
            first = mine[0]
            row = _figures(mine) | {"method": first.method, "variant": describe(first.variant, first.tokens)}
            row["tokens_spent"] = next((record.value for record in mine if record.metric == "tokens_spent"), None)
            row |= {"n": max(record.n for record in mine), "failures": max(record.failures for record in mine)}
            rows.append(row | dict(zip(("dataset", "split", "protocol"), place, strict=True)))
        tables.append(Table("Ablations: {} {}, {}".format(*place), columns, rows, [INTERVALS]))
    return tables


def _order(record: Record) -> tuple[object, ...]:
    """By settings in the order in which they are told; numbers count as numbers."""
    settings = [*record.variant.items(), *([("tokens", record.tokens)] if record.tokens else [])]
    ranks = [(0, value, "") if isinstance(value, int | float) else (1, 0, value) for _, value in settings]
    return tuple((name, *rank) for (name, _), rank in zip(settings, ranks, strict=True))


def perception(records: Sequence[Record]) -> list[Table]:
    """Accuracy of choosing the expression that fits a mask, in words and by likelihood, beside chance."""
    asked = [record for record in records if record.kind == PERCEPTION]
    titles = {"accuracy": "written answer", "likeliest": "likeliest answer", "chance": "chance", "failures": "failures"}
    rows = []
    for method in sorted({record.method for record in asked}):
        mine = {record.metric: record for record in asked if record.method == method}
        row: dict[str, object] = dict(_figures(mine[name] for name in titles if name in mine))
        rows.append(row | {"method": method, "n": mine["accuracy"].n})
    columns = [
        Column("method", "method", "method"),
        *(Column(name, title, "percent") for name, title in titles.items()),
        COUNTS[1],
    ]
    return [Table("Mask perception: the expression that fits a given mask", columns, rows, [INTERVALS])] if rows else []


def breakdowns(records: Sequence[Record]) -> list[Table]:
    """Localization and overlap by the attributes of the sample, one table per dataset and split."""
    asked = [record for record in records if record.kind == BREAKDOWN and not (record.variant or record.tokens)]
    columns = [Column("method", "method", "method"), Column("group", "samples")] + [
        Column(key, title, "percent")
        for key, title in (
            ("localization_accuracy", "localization accuracy"), ("giou_localized", "gIoU when localized"),
            ("giou", "gIoU"), ("ciou", "cIoU"),
        )
    ] + [COUNTS[1]]  # fmt: skip
    tables = []
    for place in _places(asked):
        rows: dict[tuple[str, str], dict[str, object]] = {}
        for record in (record for record in asked if record.place == place):
            key = record.label, describe(record.group) or "all"
            row = rows.setdefault(key, dict(zip(("method", "group"), key, strict=True)))
            row |= {record.metric: Figure(record.value, record.low, record.high), "n": record.n}
        notes = ["Localized: the mask overlaps the target more than any other object of the image.", INTERVALS]
        title = "What limits the scores — {} {}, {}".format(*place).replace("per_expression", "per expression")
        tables.append(Table(title, columns, [rows[key] for key in sorted(rows)], notes))
    return tables


def published(figures: pd.DataFrame, selection: Selection) -> Table:
    """What the papers print on the split that `selection` names, a row per method and protocol, datasets side by
    side."""
    wanted = figures[
        figures["method"].isin(selection.methods)
        & figures["dataset"].isin(selection.datasets)
        & (figures["split"] == selection.split)
        & figures["metric"].isin([column.key for column in SCORES])
    ]
    rows: dict[tuple[str, str], dict[str, object]] = {}
    for cell in best_graded(wanted).itertuples():
        row = rows.setdefault((cell.method, cell.protocol), {"method": cell.method, "protocol": cell.protocol})
        row[f"{cell.dataset}/{cell.metric}"] = Figure(cell.value, mark=MARKS[cell.grade])
    used = {key for row in rows.values() for key in row}
    columns = [Column(key, each.title, "percent", dataset) for dataset in selection.datasets for each in SCORES
               if (key := f"{dataset}/{each.key}") in used]  # fmt: skip
    return Table(
        title=f"Published figures, {selection.split} (other data and models; not comparable with the rows above)",
        columns=[Column("method", "method"), *columns, Column("protocol", "protocol", "protocol")],
        rows=sorted(rows.values(), key=lambda row: selection.methods.index(str(row["method"]))),
        notes=[
            "Percent, to one decimal. No mark: the paper's own pages; †: a summary of it; ‡: quoted by somebody else. "
            f"{selection.note} Rows of different protocols do not compare with each other."
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
    timed = [record for record in records if record.kind == LATENCY]
    stages = _stages(timed)
    columns = [
        Column("device", ""),
        Column("precision", ""),
        Column("dataset", ""),
        Column("method", "method", "method"),
        *(Column(stage, stage.replace("_", " "), "time") for stage in stages),
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
        names = sorted({record.label for record in here}, key=row_order)
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


def reconstruction(records: Sequence[Record]) -> list[Table]:
    """The reconstruction bound: ground truth after encoding and decoding, by number of tokens and by object size."""
    bounds = [record for record in records if record.kind == RECONSTRUCTION]
    measured = {record.metric for record in bounds}
    columns = [
        *PLACE[:2],
        Column("method", "mask tokenizer", "method"),
        Column("tokens", "tokens", "count"),
        *(column for column in RECONSTRUCTION_SCORES if column.key in measured),
        Column("n", "n", "count"),
    ]
    tables = []
    for place in _places(bounds):
        rows: dict[tuple[str, int], dict[str, object]] = {}
        for record in (record for record in bounds if record.place == place):
            name, tokens = replace(record, tokens=None).label, record.tokens or 0
            row = rows.setdefault((name, tokens), {"dataset": record.dataset, "split": record.split})
            row |= {
                "method": name,
                "tokens": record.tokens,
                record.metric: Figure(record.value, record.low, record.high),
            }
            row |= {"n": record.n} if record.metric == "giou" else {}
        notes = [
            "The true mask, encoded and decoded: no answer of the method can score higher than about this.",
            INTERVALS,
        ]
        title = "Reconstruction bound — {} {}".format(*place)
        tables.append(Table(title, columns, [rows[key] for key in sorted(rows)], notes))
    return tables


def _places(records: Iterable[Record]) -> list[tuple[str, str, str]]:
    """Datasets, splits and protocols in which something was measured; val before the other splits."""
    found = {record.place for record in records}
    return sorted(found, key=lambda place: (place[0], place[2], place[1] != "val", place[1]))


def _score_table(records: Sequence[Record], place: tuple[str, str, str], columns: Sequence[Column]) -> Table:
    dataset, split, protocol = place
    here = [r for r in scores_of(records) if r.place == place]
    rows = []
    for name in sorted({record.label for record in here}, key=row_order):
        mine = [record for record in here if record.label == name]
        first = next((record for record in mine if record.metric in ("ciou", "giou")), mine[0])
        row = _figures(mine) | {"method": name, "n": first.n, "failures": first.failures}
        row |= {"checkpoint": first.checkpoint, "backbone": first.backbone}
        row["recon_giou"] = _bound(records, first)
        row["small_n"] = next((record.n for record in mine if record.metric == "small_ciou"), 0)
        rows.append(row | dict(zip(("dataset", "split", "protocol"), place, strict=True)))
    small, total = max(row["small_n"] for row in rows), max(row["n"] for row in rows)
    small_note = f"small cIoU: the {small} of {total} samples below {100 * SMALL_FRACTION:.0f} % of the image."
    notes = [INTERVALS, *([small_note] if small else [])]
    unused = {name for name in OCCASIONAL if not any(name in row for row in rows)}
    if "n_acc" not in unused:
        notes.append("N-acc, T-acc: an empty mask says that there is no target. Pr: of the samples with one.")
    notes += sorted({f"{record.note}." for record in here if record.metric == "giou" and record.note})
    columns = [*PLACE, Column("method", "method", "method"), *(c for c in columns if c.key not in unused), *ORIGIN]
    return Table(f"{dataset} {split}, {protocol}", columns, rows, notes)


def _figures(records: Iterable[Record]) -> dict[str, Figure]:
    return {record.metric: Figure(record.value, record.low, record.high) for record in records}


def _bound(records: Iterable[Record], row: Record) -> Figure | None:
    """The gIoU of the row's mask tokenizer with all tokens."""
    candidates = {
        record.tokens or 0: record
        for record in records
        if (record.kind, record.metric) == (RECONSTRUCTION, "giou")
        and (record.method, record.dataset, record.split) == (row.method, row.dataset, row.split)
        and not record.variant
    }
    best = candidates.get(max(candidates, default=0))
    return Figure(best.value, best.low, best.high) if best else None


def whole_time(records: Iterable[Record], row: Record) -> Timing | None:
    """The time of whole requests to what the row's record is of, on its dataset; on another if only that was timed."""
    same = replace(row, backend="fast").subject
    mine = [r for r in records if r.kind == LATENCY and r.stage == "total" and r.subject == same]
    mine.sort(key=lambda record: record.dataset == row.dataset)
    timed = {record.metric: record.value for record in mine}
    median = timed.get("median_ms")
    return None if median is None else Timing(median, timed.get("p90_ms"))


def _stages(timed: Iterable[Record]) -> list[str]:
    """The stages that were timed, the known ones in their order, others behind them."""
    found = {r.stage for r in timed if r.metric == "median_ms"} - {"total"}
    found = {stage for stage in found if not stage.startswith("step ")}  # these stand in the roofline's table
    return [stage for stage in STAGES if stage in found] + sorted(found - set(STAGES))


def _latency_row(records: Iterable[Record], name: str, stages: Sequence[str]) -> dict[str, object]:
    mine = {(record.stage, record.metric): record for record in records if record.label == name}
    row: dict[str, object] = {"method": name, "n": max(record.n for record in mine.values())}
    for stage in (*stages, "total"):
        median, p90 = (mine.get((stage, f"{share}_ms")) for share in ("median", "p90"))
        row[stage] = median and Timing(median.value, p90.value if p90 else None)
    for name in ("steps", "tokens", "peak_mib"):
        row[name] = mine["", name].value if ("", name) in mine else None
    return row
