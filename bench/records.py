"""One measured figure, with all that is needed to know what it is worth. Tables and figures are views of these.

Records live in `results/<profile>/records/*.jsonl`, one line each. Values are fractions in 0..1, milliseconds or
counts, as the metric's name says. The kinds, and what their metrics are called:

- `score`: generated masks under a `protocol` (`per_expression`, `per_object_joined`): `ciou`, `giou`, `small_ciou`,
  `bf_score`, `acc@0.9` (box written in the text), `mask_acc@0.9` (box of the mask), ...: every registered metric that
  applies (bench/evaluate/metrics). Of adaptive lengths also `tokens_spent` and `giou_lost`.
- `reconstruction`: the same for the ground truth after encoding and decoding, with the first `tokens` mask tokens; the
  variant `bound=resize` after the way to the mask tokenizer's grid and back alone.
- `breakdown`: samples of one `group`: `localization_accuracy`, `giou_localized`, `giou`, `ciou`.
- `difference`: a score minus that of the side `against` (another `variant` or number of `tokens`, or another `method`),
  paired by sample.
- `perception`: choosing the expression for a mask: `accuracy` (of what is written), `likeliest`, `chance`, `failures`.
- `decoding_order`: a model against its other form that must write the same tokens, which the variant names:
  `median_ms` and `steps`, the same of the model as it is (`plain_median_ms`, `plain_steps`), `ratio` (of seconds, the
  median over requests) and `same` (the number of equal answers).
- `latency`: of each `stage` (`total` is the whole request) `median_ms`, `p90_ms`, `p99_ms`; the work of a stage
  `read_gb`, `gflop`, its `floor_ms` and `bound_by_bandwidth` or `bound_by_arithmetic`. Without a stage: `steps`,
  `tokens`, `peak_mib`, `cost_per_million` masks, and the machine's `bandwidth_gb_s` and `rate_tflop_s`.
- `scaling`: `median_ms` of a call with `units` of an `axis` (images, expressions, tiles, tokens).
- `understanding`: answers that lmms-eval scored: `dataset` is its task, the metric's name and scale are the task's own,
  `failures` are empty answers.
- `rounding`: `changed_answers`, `changed_tokens`, `ciou`, `ciou_before`, `ciou_difference` of bfloat16 against float32,
  or of 8-bit weights against none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.outputs import check_lines
from methods.files import fill, read_lines, setting, write_lines

SCORE, RECONSTRUCTION, BREAKDOWN, DIFFERENCE = "score", "reconstruction", "breakdown", "difference"
PERCEPTION, DECODING_ORDER, UNDERSTANDING = "perception", "decoding_order", "understanding"
LATENCY, SCALING, ROUNDING = "latency", "scaling", "rounding"
KINDS = (SCORE, RECONSTRUCTION, BREAKDOWN, DIFFERENCE, PERCEPTION, DECODING_ORDER, UNDERSTANDING, LATENCY,
         SCALING, ROUNDING)  # fmt: skip
BASELINE = "baseline:"  # how the names of methods that look at no expression begin
REQUIRED = ("method", "metric", "value", "dataset", "split", "kind")
EMPTY: tuple[Any, ...] = (None, "", {})
REPAIR = "make the records again with `genseg score` or `genseg eval`"
REFINED = {"refine": "SAM"}  # the variant whose masks a second model has sharpened
RESIZE_ALONE = {"bound": "resize"}  # the variant of reconstructions without a mask tokenizer
Settings = dict[str, str | int | float | bool]


@dataclass(frozen=True)
class Record:
    """One figure. `low` and `high` bound its 95 % interval; None where there is none."""

    method: str
    metric: str
    value: float
    dataset: str
    split: str
    kind: str = setting(SCORE, choices=KINDS)
    protocol: str = ""  # under which samples were asked
    variant: Settings = field(default_factory=dict)  # what was changed against the method as the profile has it
    tokens: int | None = None  # mask tokens that were asked for; None: as many as the method writes
    backend: str = ""  # decode backend, of what was timed
    stage: str = ""  # of a timed request
    axis: str = ""  # of scaling
    units: int | None = None
    group: Settings = field(default_factory=dict)  # the attributes that a breakdown's samples share; none: all samples
    against: dict[str, Any] = field(
        default_factory=dict
    )  # of a difference: `variant`, `tokens` or `method` of the other
    trainings: int | None = None  # of whose answers the figure is the mean, other seeds of the same; None: one
    n: int = 0  # samples behind the figure
    failures: int = 0  # of them, answers that were missing or malformed (scored as empty masks)
    low: float | None = None
    high: float | None = None
    checkpoint: str = ""  # digest of the weights
    data: str = ""  # digest of the ground truth
    backbone: str = ""
    seed: int | None = None
    device: str = ""
    precision: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    revision: str = ""  # of this code
    date: str = ""
    note: str = ""

    @property
    def subject(self) -> tuple[Any, ...]:
        """What answered: method, variant, mask tokens, backend and trainings; equal subjects stand in one row."""
        return self.method, canonical(self.variant), self.tokens or 0, self.backend, self.trainings or 0

    @property
    def place(self) -> tuple[str, str, str]:
        """What it was asked about."""
        return self.dataset, self.split, self.protocol

    @property
    def key(self) -> tuple[Any, ...]:
        """What the figure is of: two records with the same key measure the same thing."""
        of = self.kind, *self.subject, canonical(self.group), canonical(self.against)
        return *of, *self.place, self.stage, self.axis, self.units or 0, self.metric

    @property
    def label(self) -> str:
        """The subject in one line, for tables and messages."""
        told = describe(self.variant, self.tokens, self.backend)
        if self.trainings:
            told = ", ".join(filter(None, (told, f"mean of {self.trainings} trainings")))
        return f"{self.method} ({told})" if told else self.method


def describe(settings: Mapping[str, Any], tokens: int | None = None, backend: str = "") -> str:
    """Settings as text, "name=value, ...", with the mask tokens and a backend that is not the fast one; "+SAM" for
    refined masks."""
    told = dict(settings) | ({"tokens": tokens} if tokens else {})
    told |= {"backend": backend} if backend not in ("", "fast") else {}
    return ", ".join(f"+{value}" if name in REFINED else f"{name}={value}" for name, value in told.items())


def canonical(settings: Mapping[str, Any]) -> str:
    """The same text for equal settings, in whatever order they stand."""
    return json.dumps(settings, sort_keys=True) if settings else ""


def write_records(path: Path | str, records: Iterable[Record]) -> Path:
    """Write records as JSON lines, sorted by key, empty optional fields left out; the file appears whole or not at
    all. Raises UserError if something else is there, and ValueError for a value that is no finite number, which could
    not be read again."""
    check_lines(Path(path), ["metric"])
    records = sorted(records, key=_order)
    for record in records:
        if not math.isfinite(record.value):
            raise ValueError(f"{path}: {' '.join(str(part) for part in record.key if part)} is {record.value}.")
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
