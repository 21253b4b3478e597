"""Scores of the tasks that ask for no mask: a box, or the letter of an option. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.boxes import box_iou
from bench.data.dataset import Dataset
from bench.evaluate.answers import ALL, match
from bench.evaluate.exchange import located
from bench.evaluate.letters import read_letters
from bench.evaluate.plan import objects_of, plan
from bench.evaluate.scoring import UNANSWERED
from bench.evaluate.statistics import Terms, ratio_intervals
from bench.records import Record
from methods.base import Example, UserError
from methods.files import fits

PLAIN = ("ground", "perceive")
THRESHOLDS = (0.5, 0.7, 0.9)
FAILED = "failures"
Row = Mapping[str, Any]


def figures_of(task: str, row: Row, example: Example) -> dict[str, float]:
    """The figures of one answer, each 0 or 1, of task "ground" or "perceive"."""
    if task == "ground":
        box = tuple(row["box"]) if row.get("box") else None
        iou = box_iou(box, example.box)
        return {f"acc@{each}": float(iou >= each) for each in THRESHOLDS} | {FAILED: float(box is None)}
    named = read_letters(row.get("text", ""), example.facts["options"])
    return {"accuracy": float(named == frozenset([example.answer])), FAILED: float(named is None)}


def score_plain(path: Path | str, dataset: Dataset, limit: int | None = None) -> list[dict[str, Any]]:
    """Lines of predictions with their figures under "figures"; with a limit (0 for all) those of the first questions
    that no line answers, too: failures.

    Raises UserError, naming the line, for a question that the dataset lacks or that is answered twice, and for a box or
    a text that is none.
    """
    lines = located(path)
    pairs = match(lines, dataset)
    for where, row in lines:
        if not fits(row.get("box"), list[float] | None) or not isinstance(row.get("text", ""), str):
            raise UserError(f"{where}: box is to be four numbers or null, and text a text.")
    answered = {index for index, _ in pairs}
    asked = [] if limit is None else objects_of(dataset, plan(dataset, "joined", limit))
    for index in sorted(set(asked) - answered):
        info = dataset.info(index)
        place = {name: pairs[0][1].get(name, "") for name in ("dataset", "split", "protocol")}
        missing = {"ref_id": info.ref_id, "image_id": info.image_id, "sent_id": ALL, "failure": UNANSWERED}
        pairs.append((index, place | missing))
    return [{**row, "figures": figures_of(dataset.task, row, dataset[index])} for index, row in pairs]


def columns(figures: Sequence[Mapping[str, float]]) -> Terms:
    """The columns of each figure's mean."""
    ones = np.ones(len(figures))
    return {name: (np.array([each[name] for each in figures]), ones) for name in figures[0]}


def plain_records(rows: Sequence[Row], note: str = "", **identity: Any) -> list[Record]:
    """One record per figure, with intervals over images; identity: fields of Record, seed is the bootstrap's too."""
    table = columns([row["figures"] for row in rows])
    found = ratio_intervals(table, [row["image_id"] for row in rows], identity.get("seed") or 0)
    failures = int(table[FAILED][0].sum())
    place = {name: str(rows[0].get(name, "")) for name in ("dataset", "split", "protocol")}
    return [
        Record(
            metric=name,
            value=each.value,
            low=_finite(each.low),
            high=_finite(each.high),
            n=len(rows),
            failures=failures,
            note=note,
            **place | identity,
        )  # fmt: skip
        for name, each in found.items()
        if name != FAILED
    ]


def _finite(value: float) -> float | None:
    return value if value == value else None
