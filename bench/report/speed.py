"""The tables of speed beside the plain latencies: how much faster than the official way, and how far from the floor.

A ratio's interval is the widest that the two medians' own intervals allow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from bench.records import DECODING_ORDER, LATENCY, ROUNDING, Record
from bench.report.layout import Column, Table
from bench.report.names import method_name

FLOOR = (
    "Floor: the larger of bytes / bandwidth and operations / rate. Weights, keys and values are counted, activations "
    "are not."
)
LANGUAGE_MODEL = ("prefill", "text", "mask")
Setting = tuple[str, ...]
Metrics = Mapping[tuple[str, str], Record]  # (stage, metric) -> record, of one subject in one setting
TOTAL = ("total", "median_ms")


def speedups(records: Sequence[Record]) -> list[Table]:
    """Fast against official backend of each method, and below the table methods against each other."""
    columns = [Column("method", "method", "method")] + [
        Column(key, key) for key in ("fast ms", "official ms", "ratio", "ratio, language model", "per million masks")
    ]
    tables = []
    for setting, found in by_setting(records).items():
        by_subject = {first_of(mine).subject: mine for mine in found}
        lines = []
        for mine in found:
            first = first_of(mine)
            other = by_subject.get(replace(first, backend="official").subject)
            if first.backend == "official" or other is None or TOTAL not in mine:
                continue
            line = {"method": first.label, "ratio": shown(ratio_of(other, mine, ("total",)))}
            line |= {"fast ms": f"{mine[TOTAL].value:.1f}", "official ms": f"{other[TOTAL].value:.1f}"}
            line["ratio, language model"] = shown(ratio_of(other, mine, LANGUAGE_MODEL))
            cost = mine.get(("", "cost_per_million"))
            lines.append(line | {"per million masks": f"{cost.value:.2f}" if cost else "–"})
        if lines:
            notes = [*sentences(found), "Ratio: official backend / fast backend, of medians (95 % interval)."]
            tables.append(Table("Speed-up — " + ", ".join(filter(None, setting)), columns, lines, notes))
    return tables


def sentences(found: Sequence[Metrics]) -> list[str]:
    """Which of two methods is faster on the same backbone and number of tiles, backend by backend."""
    told = []
    timed = [mine for mine in found if TOTAL in mine]
    for first, second in combinations(timed, 2):
        one, two = first[TOTAL], second[TOTAL]
        same = one.method != two.method and one.backend == two.backend and one.backbone == two.backbone
        if not same or one.variant.get("tiles") != two.variant.get("tiles"):
            continue
        slow, fast = (first, second) if one.value >= two.value else (second, first)
        ratio = shown(ratio_of(slow, fast, ("total",)))
        told.append(f"{_name(fast)} is {ratio} times as fast as {_name(slow)}.")
    return told


def _name(mine: Metrics) -> str:
    return method_name(first_of(mine).label)


def orders(records: Sequence[Record]) -> list[Table]:
    """Models in two decoding orders that must write the same tokens: how many answers do, and what the other costs."""
    columns = [Column("method", "method", "method"), Column("variant", "other order")] + [
        Column(key, key) for key in ("steps", "its steps", "ms", "its ms", "ratio", "equal answers", "failures")
    ]
    tables = []
    for setting, found in by_setting(records, DECODING_ORDER, ("device", "precision", "dataset", "split")).items():
        lines = []
        for mine in found:
            first = first_of(mine)
            told = {"method": first.method, "variant": replace(first, method="").label.strip(" ()")}
            lines.append(_orders_line({metric: record for (_, metric), record in mine.items()}) | told)
        notes = ["Requests one at a time, both orders in turn: medians over requests (95 % interval)."]
        where = ", ".join(filter(None, [*setting[:2], " ".join(setting[2:])]))
        tables.append(Table("The same tokens in another order — " + where, columns, lines, notes))
    return tables


def _orders_line(mine: Mapping[str, Record]) -> dict[str, str]:
    same = mine["same"]
    line = {"equal answers": f"{same.value:.0f} of {same.n}", "failures": str(same.failures)}
    for key, metric in (("steps", "plain_steps"), ("its steps", "steps")):
        line[key] = f"{mine[metric].value:.0f}"
    for key, metric in (("ms", "plain_median_ms"), ("its ms", "median_ms")):
        record = mine[metric]
        line[key] = f"{record.value:.1f} ({record.low:.1f} to {record.high:.1f})"
    ratio = mine["ratio"]
    return line | {"ratio": shown((ratio.value, ratio.low, ratio.high))}


def roofline(records: Sequence[Record]) -> list[Table]:
    """Each stage and step: what it reads and computes, its floor, what was measured, and the share reached."""
    columns = [Column("method", "method", "method"), Column("stage", "stage")] + [
        Column(key, key) for key in ("GB read", "GFLOP", "floor ms", "bound by", "measured ms", "share of floor")
    ]
    tables = []
    for setting, found in by_setting(records).items():
        lines, machine = [], set()
        for mine in found:
            stages = sorted((stage for stage, metric in mine if metric == "floor_ms"), key=_order)
            lines += [_roof_line(mine, stage) | {"method": first_of(mine).label} for stage in stages]
            if ("", "bandwidth_gb_s") in mine:
                limits = mine["", "bandwidth_gb_s"].value, mine["", "rate_tflop_s"].value
                machine.add("Measured on the machine: {:.1f} GB/s and {:.3f} TFLOP/s.".format(*limits))
        if lines:
            notes = [*sorted(machine), FLOOR]
            tables.append(Table("Roofline — " + ", ".join(filter(None, setting)), columns, lines, notes))
    return tables


def rounding(records: Sequence[Record]) -> list[Table]:
    """What weights of fewer bits change of trained models' answers."""
    columns = [Column("method", "method", "method"), Column("weights", "weights")] + [
        Column(key, key) for key in ("changed answers", "changed mask tokens", "cIoU", "difference of cIoU", "n")
    ]
    rows = []
    for found in by_setting(records, ROUNDING).values():
        for mine in found:
            names = ("changed_answers", "changed_tokens", "ciou", "ciou_difference")
            cells = [_percent(mine["", name]) for name in names]
            line = dict(zip([column.key for column in columns[2:-1]], cells, strict=True))
            first = first_of(mine)
            weights = str(first.variant.get("weights") or first.precision)
            rows.append(line | {"method": first.method, "weights": weights, "n": str(mine["", "ciou"].n)})
    notes = ["Percent (95 % interval over images). bfloat16 against float32; int8 against the same model without."]
    return [Table("Answers with weights of fewer bits", columns, rows, notes)] if rows else []


def _percent(record: Record) -> str:
    return f"{100 * record.value:.1f} ({100 * record.low:.1f} to {100 * record.high:.1f})"


def _roof_line(mine: Metrics, stage: str) -> dict[str, str]:
    floor, took = mine[stage, "floor_ms"].value, mine.get((stage, "median_ms"))
    line = {
        "stage": stage,
        "GB read": f"{mine[stage, 'read_gb'].value:.4f}",
        "GFLOP": f"{mine[stage, 'gflop'].value:.3f}",
        "floor ms": f"{floor:.3f}",
        "bound by": "bandwidth" if (stage, "bound_by_bandwidth") in mine else "arithmetic",
    }
    if took and took.value:
        line |= {"measured ms": f"{took.value:.3f}", "share of floor": f"{100 * floor / took.value:.0f} %"}
    return line


def _order(stage: str) -> tuple[int, str]:
    known = ("preprocess", "vision", "prefill", "text", "mask", "mask_tokenizer", "resize")
    return (known.index(stage), "") if stage in known else (len(known), stage)


def by_setting(
    records: Iterable[Record], kind: str = LATENCY, names: Sequence[str] = ("device", "precision", "dataset", "note")
) -> dict[Setting, list[Metrics]]:
    """Records of a kind by the named fields, and within by what answered, in the order of the methods' names."""
    found: dict[Setting, dict[tuple[str, ...], dict[tuple[str, str], Record]]] = {}
    for record in records:
        if record.kind == kind:
            setting = tuple(getattr(record, name) for name in names)
            mine = found.setdefault(setting, {}).setdefault((record.method, record.label), {})
            mine[record.stage, record.metric] = record
    return {setting: [rows[key] for key in sorted(rows)] for setting, rows in sorted(found.items())}


def first_of(mine: Metrics) -> Record:
    """Any of the records of one subject, for what they share."""
    return next(iter(mine.values()))


def _bounds(mine: Metrics, stages: Sequence[str]) -> tuple[float, float, float]:
    """Sum of medians and of their intervals' ends, in ms."""
    known = [mine[stage, "median_ms"] for stage in stages if (stage, "median_ms") in mine]
    return (
        sum(r.value for r in known),
        sum(r.value if r.low is None else r.low for r in known),
        sum(r.value if r.high is None else r.high for r in known),
    )


def ratio_of(slow: Metrics, fast: Metrics, stages: Sequence[str]) -> tuple[float, float, float]:
    (a, a_low, a_high), (b, b_low, b_high) = _bounds(slow, stages), _bounds(fast, stages)
    return (a / b, a_low / b_high, a_high / b_low) if b_low else (float("nan"),) * 3


def shown(ratio: tuple[float, float, float]) -> str:
    return "{:.2f} ({:.2f} to {:.2f})".format(*ratio)
