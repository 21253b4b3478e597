"""The tables of speed beside the plain latencies: how much faster than the released way, and how far from the floor.

A ratio's interval is the widest that the two medians' own intervals allow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import combinations

from bench.records import LATENCY, ORDERS, Record
from bench.report.layout import Column, Table

REFERENCE = "path=reference"
FLOOR = (
    "Floor: the larger of bytes / bandwidth and operations / rate. Weights, keys and values are counted, activations "
    "are not."
)
LANGUAGE_MODEL = ("prefill", "text", "mask")
Setting = tuple[str, ...]
Rows = dict[tuple[str, str], dict[str, Record]]  # (method, variant) -> metric -> record


def speedups(records: Sequence[Record]) -> list[Table]:
    """Fast against reference path of each method, and below the table methods against each other."""
    columns = [Column("method", "method")] + [
        Column(key, key) for key in ("fast ms", "reference ms", "ratio", "ratio, language model", "per million masks")
    ]
    tables = []
    for setting, rows in by_setting(records).items():
        lines = []
        for (method, variant), mine in rows.items():
            other = rows.get((method, ", ".join(filter(None, [variant, REFERENCE]))))
            if REFERENCE in variant or other is None or "latency/total/median_ms" not in mine:
                continue
            line = {"method": _name(method, variant), "ratio": shown(ratio_of(other, mine, ("total",)))}
            line |= {"fast ms": f"{_ms(mine, 'total'):.1f}", "reference ms": f"{_ms(other, 'total'):.1f}"}
            line["ratio, language model"] = shown(ratio_of(other, mine, LANGUAGE_MODEL))
            cost = mine.get("latency/cost_per_million")
            lines.append(line | {"per million masks": f"{cost.value:.2f}" if cost else "–"})
        if lines:
            notes = [*sentences(rows), "Ratio: reference path (as released) / fast path, of medians (95 % interval)."]
            tables.append(Table("Speed-up — " + ", ".join(filter(None, setting)), columns, lines, notes))
    return tables


def sentences(rows: Rows) -> list[str]:
    """Which of two methods is faster on the same backbone and number of tiles, path by path."""
    found = []
    timed = {key: mine for key, mine in rows.items() if "latency/total/median_ms" in mine}
    for (one, a), (two, b) in combinations(sorted(timed), 2):
        same = one != two and path_of(a) == path_of(b) and tiles_of(a) == tiles_of(b)
        first, second = timed[one, a], timed[two, b]
        if not same or first["latency/total/median_ms"].backbone != second["latency/total/median_ms"].backbone:
            continue
        if _ms(first, "total") < _ms(second, "total"):
            (one, a, first), (two, b, second) = (two, b, second), (one, a, first)
        ratio = shown(ratio_of(first, second, ("total",)))
        found.append(f"{_name(two, b)} is {ratio} times as fast as {_name(one, a)}.")
    return found


def orders(records: Sequence[Record]) -> list[Table]:
    """Models in two forms that must write the same tokens: how many answers do, and what the other form costs."""
    columns = [Column("method", "method"), Column("variant", "other form")] + [
        Column(key, key) for key in ("steps", "its steps", "ms", "its ms", "ratio", "equal answers", "failures")
    ]
    found: dict[Setting, Rows] = {}
    for record in records:
        if record.protocol == ORDERS:
            setting = record.device, record.precision, f"{record.dataset} {record.split}"
            found.setdefault(setting, {}).setdefault((record.method, record.variant), {})[record.metric] = record
    notes = ["Requests one at a time, both forms in turn: medians over requests (95 % interval)."]
    tables = []
    for setting, rows in sorted(found.items()):
        lines = [_orders_line(mine) | {"method": m, "variant": v} for (m, v), mine in sorted(rows.items())]
        tables.append(
            Table("The same tokens in another order — " + ", ".join(filter(None, setting)), columns, lines, notes)
        )
    return tables


def _orders_line(mine: dict[str, Record]) -> dict[str, str]:
    same = mine["orders/same"]
    line = {"equal answers": f"{same.value:.0f} of {same.n}", "failures": str(same.failures)}
    for key, metric in (("steps", "plain/steps"), ("its steps", "steps")):
        line[key] = f"{mine[f'orders/{metric}'].value:.0f}"
    for key, metric in (("ms", "plain/median_ms"), ("its ms", "median_ms")):
        record = mine[f"orders/{metric}"]
        line[key] = f"{record.value:.1f} ({record.low:.1f} to {record.high:.1f})"
    ratio = mine["orders/ratio"]
    return line | {"ratio": shown((ratio.value, ratio.low, ratio.high))}


def roofline(records: Sequence[Record]) -> list[Table]:
    """Each stage and step: what it reads and computes, its floor, what was measured, and the share reached."""
    columns = [Column("method", "method"), Column("stage", "stage")] + [
        Column(key, key) for key in ("GB read", "GFLOP", "floor ms", "bound by", "measured ms", "share of floor")
    ]
    tables = []
    for setting, rows in by_setting(records).items():
        lines, machine = [], set()
        for (method, variant), mine in rows.items():
            stages = [metric.split("/")[1] for metric in mine if metric.endswith("/floor_ms")]
            lines += [
                _roof_line(mine, stage) | {"method": _name(method, variant)} for stage in sorted(stages, key=_order)
            ]
            if "latency/bandwidth_gb_s" in mine:
                limits = mine["latency/bandwidth_gb_s"].value, mine["latency/rate_tflop_s"].value
                machine.add("Measured on the machine: {:.1f} GB/s and {:.3f} TFLOP/s.".format(*limits))
        if lines:
            notes = [*sorted(machine), FLOOR]
            tables.append(Table("Roofline — " + ", ".join(filter(None, setting)), columns, lines, notes))
    return tables


def int8(records: Sequence[Record]) -> list[Table]:
    """What 8-bit weights change of trained models' answers."""
    columns = [Column("method", "method")] + [
        Column(key, key) for key in ("changed answers", "changed mask tokens", "cIoU", "difference of cIoU", "n")
    ]
    rows = []
    for found in by_setting(records).values():
        for (method, _), mine in found.items():
            if "int8/ciou" not in mine:
                continue
            names = ("changed_answers", "changed_tokens", "ciou", "ciou_difference")
            cells = [_percent(mine[f"int8/{name}"]) for name in names]
            line = dict(zip([column.key for column in columns[1:-1]], cells, strict=True))
            rows.append(line | {"method": method, "n": str(mine["int8/ciou"].n)})
    title = "Answers with 8-bit weights in the language model, against the same model's without"
    return [Table(title, columns, rows, ["Percent (95 % interval over images)."])] if rows else []


def _percent(record: Record) -> str:
    return f"{100 * record.value:.1f} ({100 * record.low:.1f} to {100 * record.high:.1f})"


def _roof_line(mine: dict[str, Record], stage: str) -> dict[str, str]:
    floor, took = mine[f"latency/{stage}/floor_ms"].value, mine.get(f"latency/{stage}/median_ms")
    bound = "bandwidth" if f"latency/{stage}/bound_by_bandwidth" in mine else "arithmetic"
    line = {
        "stage": stage,
        "GB read": f"{mine[f'latency/{stage}/read_gb'].value:.4f}",
        "GFLOP": f"{mine[f'latency/{stage}/gflop'].value:.3f}",
        "floor ms": f"{floor:.3f}",
        "bound by": bound,
    }
    if took and took.value:
        line |= {"measured ms": f"{took.value:.3f}", "share of floor": f"{100 * floor / took.value:.0f} %"}
    return line


def _order(stage: str) -> tuple[int, str]:
    known = ("preprocess", "vision", "prefill", "text", "mask", "codec", "resize")
    return (known.index(stage), "") if stage in known else (len(known), stage)


def by_setting(records: Iterable[Record]) -> dict[Setting, Rows]:
    """Latency records by device, precision, dataset and note."""
    found: dict[Setting, Rows] = {}
    for record in records:
        if record.protocol == LATENCY:
            setting = record.device, record.precision, record.dataset, record.note
            found.setdefault(setting, {}).setdefault((record.method, record.variant), {})[record.metric] = record
    return dict(sorted(found.items()))


def _name(method: str, variant: str) -> str:
    return f"{method} ({variant})" if variant else method


def tiles_of(variant: str) -> str:
    found = re.search(r"tiles=\d+", variant)
    return found.group() if found else ""


def path_of(variant: str) -> str:
    found = re.search(r"path=(\w+)", variant)
    return found.group(1) if found else "fast"


def _ms(mine: dict[str, Record], stage: str) -> float:
    record = mine.get(f"latency/{stage}/median_ms")
    return record.value if record else 0.0


def _bounds(mine: dict[str, Record], stages: Sequence[str]) -> tuple[float, float, float]:
    """Sum of medians and of their intervals' ends, in ms."""
    known = [mine[f"latency/{stage}/median_ms"] for stage in stages if f"latency/{stage}/median_ms" in mine]
    return (
        sum(r.value for r in known),
        sum(r.value if r.low is None else r.low for r in known),
        sum(r.value if r.high is None else r.high for r in known),
    )


def ratio_of(slow: dict[str, Record], fast: dict[str, Record], stages: Sequence[str]) -> tuple[float, float, float]:
    (a, a_low, a_high), (b, b_low, b_high) = _bounds(slow, stages), _bounds(fast, stages)
    return (a / b, a_low / b_high, a_high / b_low) if b_low else (float("nan"),) * 3


def shown(ratio: tuple[float, float, float]) -> str:
    return "{:.2f} ({:.2f} to {:.2f})".format(*ratio)
