"""One measured figure, with all that is needed to know what it is worth. Tables and figures are views of these.

Records live in `results/<profile>/records/*.jsonl`, one line each. Values are fractions in 0..1, milliseconds or
counts, as the metric's name says:

- scores (protocol `per_expression` or `per_object_joined`): `ciou`, `giou`, `small_ciou`, `bf_score`, `acc@0.9` (box
  written in the text), `mask_acc@0.9` (box of the mask), ...: the names of `bench.evaluate.metrics.aggregate`. Where a
  split has samples without a target also `n_acc`, `t_acc` and `pr@0.7` (`bench.evaluate.grefcoco`).
- codec ceilings (protocol `codec`, variant `tokens=N`): the same names, for the ground truth after encoding and
  decoding with N tokens.
- breakdowns (protocol `breakdown`, the variant names a group of questions): `right_object`, `giou_right`, `giou`,
  `ciou`.
- ablations: scores with a variant that names what was changed; `tokens_spent` and `giou_lost` of adaptive lengths.
- paired differences of two of them (protocol `difference`, variant "A against B"): A's score minus B's.
- mask perception (protocol `perception`): `perception/accuracy` (of what is written), `perception/likeliest`,
  `perception/chance`, `perception/failures`.
- one model in two forms that must write the same tokens (protocol `orders`, the variant names the other form):
  `orders/median_ms`, `orders/steps`, the same of the model as it is under `orders/plain/`, `orders/ratio` (of seconds,
  the median over requests), `orders/same` (the number of equal answers).
- speed (protocol `latency`): `latency/STAGE/median_ms`, `latency/STAGE/p90_ms`, `latency/steps`, `latency/tokens`,
  `latency/peak_mib`; of each stage `read_gb`, `gflop`, `floor_ms` and what binds it; the machine's `bandwidth_gb_s` and
  `rate_tflop_s`; `cost_per_million` masks. Variant `path=reference`: as the released codes do it.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from methods.base import UserError

CODEC, LATENCY, PERCEPTION, ORDERS, BREAKDOWN = "codec", "latency", "perception", "orders", "breakdown"
DIFFERENCE = "difference"
REQUIRED = ("method", "metric", "value", "dataset", "split", "protocol")
EMPTY = (None, "", {})
UNSCORED = (CODEC, LATENCY, PERCEPTION, ORDERS, BREAKDOWN, DIFFERENCE)  # the protocols that score no generation


@dataclass(frozen=True)
class Record:
    """One figure. `low` and `high` bound its 95 % interval; None where there is none."""

    method: str
    metric: str
    value: float
    dataset: str
    split: str
    protocol: str
    variant: str = ""  # what sets rows of one method apart: "tokens=16", "released", ...
    n: int = 0  # samples behind the figure
    failures: int = 0  # of them, answers that were missing or malformed (scored as empty masks)
    low: float | None = None
    high: float | None = None
    checkpoint: str = ""  # digest of the weights
    backbone: str = ""
    seed: int | None = None
    device: str = ""
    precision: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    revision: str = ""  # of this code
    date: str = ""
    note: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """What the figure is of: two records with the same key measure the same thing."""
        return self.method, self.variant, self.dataset, self.split, self.protocol, self.metric


def write_records(path: Path | str, records: Iterable[Record]) -> Path:
    """Write records as JSON lines, sorted by key, empty optional fields left out; the file appears whole or not at
    all. Raises ValueError for a value that is no finite number, which could not be read again."""
    records = sorted(records, key=_order)
    for record in records:
        if not math.isfinite(record.value):
            raise ValueError(f"{path}: {' '.join(filter(None, record.key))} is {record.value}.")
    rows = (asdict(record) for record in records)
    return write_lines(path, ({k: v for k, v in row.items() if k in REQUIRED or v not in EMPTY} for row in rows))


def read_records(source: Path | str) -> list[Record]:
    """Records of a file, or of all `*.jsonl` in a folder by name. Raises UserError with file and line."""
    source = Path(source)
    if source.is_dir():
        return [record for path in sorted(source.glob("*.jsonl")) for record in read_records(path)]
    return [_parse(row, f"{source}, line {number}") for number, row in read_lines(source)]


def read_lines(path: Path | str) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSON-lines file with their line numbers from 1. Raises UserError with file and line."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a JSON-lines file.") from None
    rows = []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: JSON keeps U+2028 and its like as they are
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(
                f"{path}, line {number}: not JSON ({error}); delete the line or make the file anew."
            ) from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: not a JSON object; delete the line or make the file anew.")
        rows.append((number, row))
    return rows


def write_lines(path: Path | str, rows: Iterable[dict[str, Any]]) -> Path:
    """Write objects as JSON lines in the order given; NaN becomes null."""
    return write_atomic(path, "".join(json.dumps(_without_nan(row), ensure_ascii=False) + "\n" for row in rows))


def write_atomic(path: Path | str, content: str | bytes) -> Path:
    """Write a file so that a reader, or a crash, never sees half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


def _order(record: Record) -> tuple[Any, ...]:
    return *record.key, record.checkpoint, record.value


def _parse(row: dict[str, Any], where: str) -> Record:
    known = {entry.name for entry in fields(Record)}
    unknown = sorted(row.keys() - known)
    missing = [name for name in REQUIRED if row.get(name) is None]
    if unknown or missing:
        fault = f"unknown field {unknown[0]!r}" if unknown else f"no field {missing[0]!r}"
        raise UserError(f"{where}: {fault}; make the records anew with `genseg score`.")
    wrong = [name for name in ("value", "low", "high") if not isinstance(row.get(name, 0.0), int | float | None)]
    if wrong:
        raise UserError(f"{where}: {wrong[0]!r} is no number; make the records anew with `genseg score`.")
    return Record(**row)


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
