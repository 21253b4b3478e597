"""The questions of a run with every method's answer to them, read from its lines of scores."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from bench.evaluate.metrics.sizes import BUCKETS
from bench.records import BASELINE, RECONSTRUCTION, REFINED, Record
from bench.report.names import method_name
from methods.base import UserError
from methods.files import printable, read_lines

Row = Mapping[str, Any]
Place = tuple[str, str, str]  # dataset, split, protocol
POSITION = {"left", "right", "top", "bottom", "upper", "lower", "middle", "center", "centre", "corner", "front", "back",
            "closest", "nearest", "far", "farthest", "first", "second", "third", "last"}  # fmt: skip
TOLD = ("area_fraction", "small", "kind")  # facts that stand in the page already
RELATION = {"of", "with", "in", "on", "behind", "beside", "near", "next", "under", "above", "below", "between",
            "wearing", "holding", "than"}  # fmt: skip


@dataclass
class Sample:
    """A question, and label of a method -> its line of scores."""

    place: Place
    ref_id: Any
    sent_id: Any
    answers: dict[str, Row] = field(default_factory=dict)

    @property
    def first(self) -> Row:
        return next(iter(self.answers.values()))

    @property
    def name(self) -> str:
        """What a link to it says."""
        return "/".join(map(str, (*self.place, self.ref_id, self.sent_id)))


def read_samples(scores: Path) -> list[Sample]:
    """All questions about masks that were answered by methods as they are meant, in the order of the files.

    scores: the folder of lines of scores. Raises UserError, naming the command that makes them, if there are none.
    """
    found: dict[tuple[Any, ...], Sample] = {}
    for path in sorted(scores.glob("*.jsonl")):
        for _, row in read_lines(path):
            if not _shown(row):
                break  # all lines of a file are of one kind
            place = tuple(str(row.get(name) or "") for name in ("dataset", "split", "protocol"))
            key = (*place, str(row["ref_id"]), str(row.get("sent_id")))
            sample = found.setdefault(key, Sample(place, row["ref_id"], row.get("sent_id")))
            sample.answers[label_of(row)] = row
    if not found:
        raise UserError(
            f"{printable(scores)}: holds no scores of masks; make them with `genseg eval profile=NAME` or `genseg eval "
            "checkpoint=FOLDER dataset=NAME split=NAME root=FOLDER`, or name the folder that has them with runs=FOLDER."
        )
    return [found[key] for key in sorted(found, key=lambda key: key[:3])]


def _shown(row: Row) -> bool:
    """Whether a line is of masks that a method has written, with nothing changed but refinement."""
    method = str(row.get("method") or "")
    plain = row.get("variant") in (None, {}, REFINED) and not row.get("tokens")
    return (
        "iou" in row and plain and bool(method) and not method.startswith(BASELINE)
        and row.get("protocol") != RECONSTRUCTION
    )  # fmt: skip


def label_of(row: Row) -> str:
    return Record(str(row["method"]), "", 0.0, "", "", variant=row.get("variant") or {}).label


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """`count` of them at equal distances, in order; all for 0 or if there are no more."""
    if not 0 < count < len(samples):
        return list(samples)
    return [samples[i] for i in np.linspace(0, len(samples) - 1, count).round().astype(int)]


def facts_of(sample: Sample, methods: Sequence[str], masks: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What is known of a sample without its masks, ready for JSON. masks: label -> bool [H, W] of its answer."""
    first = sample.first
    return {
        "id": sample.name, "text": str(first.get("expression", "")), "area": int(first["gt_area"]),
        "share": round(float(first["gt_area_fraction"]), 5), "size": bucket_of(first["gt_area"]),
        "kind": kind_of(first), "disagreement": disagreement(list(masks.values())),
        "facts": {str(name): str(value) for name, value in (first.get("facts") or {}).items()
                  if value is not None and name not in TOLD},
        "answers": [_answer(sample.answers.get(method)) for method in methods],
    }  # fmt: skip


def _answer(row: Row | None) -> dict[str, Any] | None:
    if row is None:
        return None
    told = {"iou": round(float(row["iou"]), 4), "tokens": len(row.get("token_ids") or ()), "steps": row.get("steps")}
    return told | {"failure": row.get("failure"), "text": str(row.get("text") or ""), "box": row.get("box")}


def bucket_of(area: float) -> str:
    """COCO's name for an object of so many pixels; "none" for no object."""
    return next((name for name, (low, high) in BUCKETS.items() if low <= area < high), "none")


def kind_of(row: Row) -> str:
    """The dataset's kind of the expression; where it has none, by the words in it: a position, a relation to something
    else, a bare name of up to two words, or else a description."""
    known = (row.get("facts") or {}).get("kind")
    if isinstance(known, str):
        return known
    words = re.findall(r"\w+", str(row.get("expression", "")).lower())
    if POSITION & set(words):
        return "position"
    if RELATION & set(words):
        return "relation"
    return "name" if len(words) <= 2 else "description"


def disagreement(masks: Sequence[np.ndarray]) -> float | None:
    """1 minus the IoU of the answers with each other, the mean over all pairs; None for a single answer."""
    pairs = list(combinations(masks, 2))
    return round(1 - sum(iou(*pair) for pair in pairs) / len(pairs), 4) if pairs else None


def iou(first: np.ndarray, second: np.ndarray) -> float:
    """Of two masks bool [H, W]; 1 where both are empty."""
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 1.0


def titles(methods: Sequence[str]) -> list[str]:
    return [method_name(method) for method in methods]
