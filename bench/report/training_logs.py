"""The logs of a profile's training: which there are, what they are called, and what the training cost. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.config import Profile
from bench.report.layout import Column, Table
from bench.train.folders import needed_stages, stages_in_order
from methods.files import read_lines
from methods.registry import method_spec

LOGS = ("train.jsonl", "validation.jsonl")


@dataclass(frozen=True)
class Training:
    """Stages of which each went on with the weights of the one before.

    name: as people read it. folders: of the stages' logs, in order: train.jsonl or validation.jsonl, and perhaps
    speed.jsonl.
    """

    name: str
    method: str
    mask_tokenizer: bool
    folders: tuple[Path, ...]

    @property
    def what(self) -> str:
        """What was trained, where one line has to say it."""
        return f"{self.name}, mask tokenizer" if self.mask_tokenizer else self.name


def trainings(profile: Profile) -> list[Training]:
    """What led to the profile's models (without any: all stages) and has a log: bundled, or without bundled logs of
    what ran here. Mask tokenizers come first. What no model is of, such as a backbone, is called as its stage is."""
    bundled, ran = profile.results_dir / "logs", profile.runs_dir
    top = bundled if any(bundled.glob("*/*.jsonl")) else ran
    wanted = [needed for stage in profile.models.values() if stage in profile.stages
              for needed in needed_stages(profile, stage)] or stages_in_order(profile)  # fmt: skip
    logged = [name for name in dict.fromkeys(wanted) if any((top / name / log).is_file() for log in LOGS)]
    before = {name: _start(profile, name) for name in logged}
    found = []
    for name in logged:
        if name not in before.values():
            stage = profile.stages[name]
            spec = method_spec(stage.method)
            chain = _chain(name, before)
            title = spec.title if stage.method in profile.models or not profile.models else name.replace("_", " ")
            found.append(Training(title, stage.method, spec.stages[stage.stage].mask_tokenizer,
                                  tuple(top / each for each in chain)))  # fmt: skip
    return sorted(_distinct(found), key=lambda each: (not each.mask_tokenizer, each.name.lower()))


def _start(profile: Profile, name: str) -> str:
    """The stage whose weights a stage went on with, or ""."""
    start = profile.stages[name].model.get("start")
    return start.removeprefix("stage:") if isinstance(start, str) and start.startswith("stage:") else ""


def _chain(name: str, before: dict[str, str]) -> list[str]:
    """The stages up to the named one, first to last."""
    chain = [name]
    while before.get(chain[0]) in before:
        chain.insert(0, before[chain[0]])
    return chain


def _distinct(found: Sequence[Training]) -> list[Training]:
    """With the last stage's name behind those that would be called alike."""
    counts = Counter(each.what for each in found)
    return [replace(each, name=f"{each.name} ({each.folders[-1].name})") if counts[each.what] > 1 else each
            for each in found]  # fmt: skip


def rows_of(folder: Path, log: str) -> list[dict[str, Any]]:
    """The lines of a log; none where there is none."""
    path = folder / log
    return [row for _, row in read_lines(path)] if path.is_file() else []


def samples_of(folder: Path) -> int:
    """The samples that a stage had seen at its last logged step."""
    return max((rows[-1].get("samples", 0) for log in LOGS if (rows := rows_of(folder, log))), default=0)


COLUMNS = (
    Column("what", "trained"), Column("stages", "stages", "count"), Column("samples", "samples", "count"),
    Column("hours", "hours"), Column("rate", "samples per second"), Column("device", "on"),
)  # fmt: skip
NOTE = "Hours: wall-clock time, with validation and checkpoints, and with what was trained twice after a kill."
UNTIMED = "These trainings were logged without times."
UNKNOWN = "Where no time stands, none was logged."


def training_cost(found: Sequence[Training]) -> list[Table]:
    """Samples and wall-clock time of each training; a time is left open unless all stages logged theirs."""
    rows = [_cost(training) for training in found]
    if not rows:
        return []
    timed = [row for row in rows if "hours" in row]
    if not timed:
        return [Table("Cost of training", COLUMNS[:3], rows, [UNTIMED])]
    return [Table("Cost of training", COLUMNS, rows, [NOTE, *[UNKNOWN] * (len(timed) < len(rows))])]


def _cost(training: Training) -> dict[str, object]:
    samples = sum(map(samples_of, training.folders))
    row: dict[str, object] = {"what": training.what, "stages": len(training.folders), "samples": samples}
    last = [rows[-1] if (rows := rows_of(folder, "speed.jsonl")) else {} for folder in training.folders]
    if not all("seconds" in line for line in last):
        return row
    seconds = sum(line["seconds"] for line in last)
    devices = dict.fromkeys(f"{line['processes']} x {line['device']}" for line in last)
    rate = f"{samples / seconds:.1f}" if seconds else ""
    return row | {"hours": f"{seconds / 3600:.2f}", "rate": rate, "device": ", ".join(devices)}
