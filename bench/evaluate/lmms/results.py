"""lmms-eval's result files (`*_results.json`, beside them `*_samples_TASK.jsonl`) as records, one per task and metric.

A value stays on the scale of its task: a share for POPE, a sum of points for MME. The metric has the harness's name,
the protocol is `lmms-eval/VERSION`. Result files do not tell the version; our own model answers under one only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.evaluate.lmms import MODEL, TESTED
from bench.records import UNDERSTANDING, Record, read_records, write_records
from bench.runtime import digest
from methods.base import UserError
from methods.files import fits, quoted, read_lines, read_object
from methods.registry import method_of

ENDING, SAMPLES = "_results.json", "_samples_{}.jsonl"
REPAIR = "give an --output_path of lmms-eval as it wrote it"
WIDTH = 1.96  # standard errors on each side of a 95 % interval


@dataclass(frozen=True)
class Results:
    """One result file: model and arguments, date, and of each task and group the metrics as "name,filter"."""

    path: Path
    model: str
    arguments: dict[str, str]
    date: str
    tasks: dict[str, dict[str, Any]]
    configs: dict[str, dict[str, Any]]
    subtasks: dict[str, list[str]]  # of groups
    counts: dict[str, dict[str, Any]]
    limit: float | None

    @property
    def subject(self) -> tuple[str, str]:
        """What answered."""
        return self.model, str(self.arguments)

    @property
    def checkpoint(self) -> Path | None:
        """The folder that our model was loaded from; None for other models."""
        return Path(self.arguments.get("checkpoint", "")).expanduser() if self.model == MODEL else None

    @property
    def mask_tokenizer(self) -> Path | None:
        """The file that stood in place of the checkpoint's own."""
        return Path(self.arguments["mask_tokenizer"]).expanduser() if "mask_tokenizer" in self.arguments else None

    @property
    def name(self) -> str:
        """What another model is called: the last part of the name of its weights."""
        weights = next((self.arguments[key] for key in ("pretrained", "model", "path") if key in self.arguments), "")
        return weights.rstrip("/").rpartition("/")[2] or self.model

    def samples(self, task: str) -> int:
        """The number of a task's samples, of a group's those of all its tasks."""
        members, waiting = set(), [task]
        while waiting:
            members.add(each := waiting.pop())
            waiting += [other for other in self.subtasks.get(each, ()) if other not in members]
        counts = (self.counts.get(each, {}).get("effective") for each in members)
        return sum(count for count in counts if isinstance(count, int))

    def unanswered(self, task: str) -> int:
        """The number of empty answers, by the log of samples; 0 without one (--log_samples)."""
        name = self.path.name.removesuffix(ENDING) + SAMPLES.format(task)
        logs = [path for path in self.path.parent.iterdir() if path.name == name]  # a task's name leads nowhere else
        rows = [row for log in logs for _, row in read_lines(log)]
        return sum(row.get("filtered_resps") in ("", [""], []) for row in rows)


def find_results(folder: Path) -> list[Results]:
    """The result files in a folder and below, oldest first. Raises UserError if there are none, or for one of another
    form."""
    paths = sorted(folder.rglob("*" + ENDING)) if folder.is_dir() else []
    if not paths:
        raise UserError(f"{folder}: no files *{ENDING} in it; {REPAIR}.")
    return sorted(map(_read, paths), key=lambda each: each.date)


def _read(path: Path) -> Results:
    data = read_object(path, REPAIR)
    config: dict[str, Any] = data["config"] if isinstance(data.get("config"), dict) else {}
    parts = data | {f"config.{name}": value for name, value in config.items()}
    hints = {
        "config.model": str, "config.limit": float | None, "date": str, "results": dict[str, dict],
        "configs": dict[str, dict], "group_subtasks": dict[str, list[str]], "n-samples": dict[str, dict],
    }  # fmt: skip
    for name, hint in hints.items():
        if not fits(parts.get(name), hint):
            raise UserError(f"{path}: {name} is {quoted(parts.get(name))}, nothing that lmms-eval writes; {REPAIR}.")
    return Results(
        path, config["model"], _arguments(config.get("model_args")), data["date"], data["results"], data["configs"],
        data["group_subtasks"], data["n-samples"], config.get("limit"),
    )  # fmt: skip


def _arguments(told: Any) -> dict[str, str]:
    """model_args, "name=value,name=value" or an object."""
    if isinstance(told, dict):
        return {str(name): str(value) for name, value in told.items()}
    pairs = (part.partition("=") for part in str(told or "").split(",") if "=" in part)
    return {name.strip(): value.strip() for name, _, value in pairs}


def moved(results: Sequence[Results], checkpoint: Path) -> list[Results]:
    """The same, with the checkpoint where it is now."""
    place = {"checkpoint": str(checkpoint)}
    return [replace(r, arguments=r.arguments | place) if r.model == MODEL else r for r in results]


def only_checkpoint(results: Iterable[Results]) -> Path:
    """The checkpoint of all results. Raises UserError if they are of several models."""
    found = {each.checkpoint for each in results}
    if len(found) != 1 or None in found:
        raise UserError("The results are of several models, or of others than genseg; name a profile with profile=.")
    return found.pop() or Path()


def to_records(results: Sequence[Results], backbone: str) -> list[Record]:
    """Records of all tasks; of a task that a model answered several times the last. Raises UserError for a checkpoint
    that is not there, or for two of one method, which one table could not tell apart."""
    newest = {(each.subject, task): (each, task) for each in results for task in each.tasks}
    identities = {each.subject: _identity(each, backbone) for each, _ in newest.values()}
    _check_distinct(identities.values())
    return [record for each, task in newest.values() for record in _task_records(each, task, identities[each.subject])]


def _identity(results: Results, backbone: str) -> dict[str, Any]:
    """The fields of a record that are the same for all figures of a model."""
    if results.checkpoint is None:
        return {"method": results.name, "protocol": "lmms-eval"}
    if not (results.checkpoint / "config.json").is_file():
        raise UserError(
            f"{results.path}: answered by the checkpoint {results.checkpoint}, which is not there; "
            "say with checkpoint= where it is."
        )
    return {
        "method": method_of(results.checkpoint),
        "checkpoint": digest(results.checkpoint, results.mask_tokenizer),
        "backbone": backbone,
        "precision": results.arguments.get("precision", "float32"),
        "protocol": f"lmms-eval/{TESTED}",
    }


def _check_distinct(identities: Iterable[dict[str, Any]]) -> None:
    seen: dict[str, dict[str, Any]] = {}
    for identity in identities:
        other = seen.setdefault(identity["method"], identity)
        if other != identity:
            raise UserError(
                f"The results are of several models called {identity['method']}; import each from a folder of its own, "
                "into a profile of its own."
            )


def _task_records(results: Results, task: str, identity: dict[str, Any]) -> list[Record]:
    config = results.configs.get(task, {})
    found = []
    for key, value in results.tasks[task].items():
        metric, _, kept = key.partition(",")
        if metric.endswith(("_stderr", "_stderr_clt", "_stderr_clustered")) or not _is_figure(value):
            continue
        error: Any = results.tasks[task].get(f"{metric}_stderr,{kept}")
        bounds = {"low": value - WIDTH * error, "high": value + WIDTH * error} if _is_figure(error) else {}
        found.append(
            Record(
                metric=metric if kept in ("", "none") else f"{metric}/{kept}", value=float(value), dataset=task,
                split=str(config.get("test_split") or config.get("validation_split") or ""), kind=UNDERSTANDING,
                n=results.samples(task), failures=results.unanswered(task), date=_day(results.date),
                note=f"limit {results.limit:g}" if results.limit else "", **bounds, **identity,
            )
        )  # fmt: skip
    return found


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _day(date: str) -> str:
    """20261201_055338 -> 2026-12-01."""
    try:
        return datetime.strptime(date[:8], "%Y%m%d").date().isoformat()
    except ValueError:
        return date


def keep(path: Path, records: Sequence[Record]) -> None:
    """Write the records, with those that were there: but for the same figures, and for other weights of a method."""
    weights = {record.method: record.checkpoint for record in records}
    keys = {record.key for record in records}
    earlier = read_records(path) if path.exists() else []
    alike = (r for r in earlier if weights.get(r.method, r.checkpoint) == r.checkpoint)
    write_records(path, [*records, *(r for r in alike if r.key not in keys)])
