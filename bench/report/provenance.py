"""Where the figures come from: for each kind of measurement the command, ground truth, weights, device and dates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.records import (
    BASELINE,
    DECODING_ORDER,
    DIFFERENCE,
    LATENCY,
    PERCEPTION,
    REFINED,
    ROUNDING,
    SCALING,
    UNDERSTANDING,
    Record,
)  # fmt: skip
from bench.report.layout import Column, Table
from bench.report.names import DATASETS, method_name

COMMANDS = {
    "genseg eval": "scores, differences of methods, reconstructions",
    "genseg ablation": "ablations, mask perception, decoding orders",
    "genseg latency": "latency",
    "genseg import-lmms": "understanding",
}
COLUMNS = (
    Column("what", "what"), Column("command", "made by"), Column("data", "data (digest)"),
    Column("weights", "weights (digest)"), Column("device", "device"), Column("precision", "precision"),
    Column("seeds", "seeds"), Column("revision", "genseg-bench"),
    Column("versions", "with"), Column("date", "measured"),
)  # fmt: skip


def provenance(records: Sequence[Record], profile: str) -> list[Table]:
    """One table with a row for each command that made records. profile: the name of the results' folder."""
    found: dict[str, list[Record]] = {name: [] for name in COMMANDS}
    for record in records:
        found[command_of(record)].append(record)
    rows = [_row(name, profile, own) for name, own in found.items() if own]
    shown = [column for column in COLUMNS if any(row[column.key] for row in rows)]
    return [Table("Origin of the figures", shown, rows)] if rows else []


def command_of(record: Record) -> str:
    """The command that makes such records."""
    if record.kind == UNDERSTANDING:
        return "genseg import-lmms"
    if record.kind in (LATENCY, SCALING, ROUNDING):
        return "genseg latency"
    changed = record.variant not in ({}, REFINED) and "rule" not in record.variant and "bound" not in record.variant
    between = record.kind == DIFFERENCE and "method" not in record.against
    limited = record.kind not in ("reconstruction",) and record.tokens
    ablated = record.kind in (PERCEPTION, DECODING_ORDER) or changed or between or limited
    return "genseg ablation" if ablated else "genseg eval"


def _row(command: str, profile: str, records: Sequence[Record]) -> dict[str, str]:
    plain = [r for r in records if r.checkpoint and not r.variant and not r.method.startswith(BASELINE)]
    return {
        "what": COMMANDS[command],
        "command": f"{command} profile={profile}",
        "data": _joined(f"{DATASETS.get(r.dataset, r.dataset)} {r.split} {r.data}".strip() for r in records),
        "weights": _joined(f"{method_name(r.method)} {r.checkpoint}" for r in plain),
        "device": _joined(r.device for r in records),
        "precision": _joined(r.precision for r in records),
        "seeds": _joined(str(r.seed) for r in records if r.seed is not None),
        "revision": _joined(r.revision for r in records),
        "versions": _joined(f"{name} {number}" for r in records for name, number in r.versions.items()),
        "date": _joined(r.date for r in records),
    }


def _joined(words: Iterable[str]) -> str:
    return ", ".join(sorted(set(filter(None, words))))
