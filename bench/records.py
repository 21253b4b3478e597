"""One measured figure, with all that is needed to know what it is worth. Tables and figures are views of these.

Records live in `results/<profile>/records/*.jsonl`, one line each. Values are fractions in 0..1, milliseconds or
counts, as the metric's name says:

- scores (protocol `per_expression` or `per_object_joined`): `ciou`, `giou`, `small_ciou`, `bf_score`, `acc@0.9` (box
  written in the text), `mask_acc@0.9` (box of the mask), ...: the names of `bench.evaluate.metrics.aggregate`. Where a
  split has samples without a target also `n_acc`, `t_acc` and `pr@0.7` (`bench.evaluate.metrics.no_target`).
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

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.outputs import check_lines
from methods.files import fill, read_lines, write_lines

CODEC, LATENCY, PERCEPTION, ORDERS, BREAKDOWN = "codec", "latency", "perception", "orders", "breakdown"
DIFFERENCE = "difference"
BASELINE = "baseline:"  # how the names of methods that look at no expression begin
REQUIRED = ("method", "metric", "value", "dataset", "split", "protocol")
EMPTY = (None, "", {})
REPAIR = "make the records again with `genseg score` or `genseg eval`"
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
    all. Raises UserError if something else is there, and ValueError for a value that is no finite number, which could
    not be read again."""
    check_lines(Path(path), "metric")
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
    rows = read_lines(source, REPAIR)
    return [fill(Record, _told(row), f"{source}, line {number}", REPAIR) for number, row in rows]


def _order(record: Record) -> tuple[Any, ...]:
    return *record.key, record.checkpoint, record.value


def _told(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the fields that are null, which stand for their defaults."""
    return {name: value for name, value in row.items() if value is not None}
