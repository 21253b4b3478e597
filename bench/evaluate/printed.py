"""The figures that an official evaluation script prints, by its own arithmetic, oddities included.

They stand beside this project's own figures of the same predictions under `printed/...`, so that a published number can
be compared with either. `methods.protocols.TaskProtocol.printed` names the arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench.evaluate import dialects
from bench.records import Record
from methods.base import Box, Example, mask_of
from methods.protocols import TaskProtocol

MASKS = [dialects.Rules(epsilon=1e-10), dialects.Rules(ignored="hits", epsilon=1e-10)]  # such pixels no hits, and hits
PRINTED = "printed/"  # before the names of these figures in records
LETTERS = "ABCD"
LEADING = re.compile(r"\s*([A-E])\.", re.IGNORECASE)
SINGLE_PROCESS = re.compile(r"\b([A-E])\b", re.IGNORECASE)
Row = Mapping[str, Any]


def printed(rule: TaskProtocol, rows: Sequence[Row], examples: Sequence[Example]) -> dict[str, float]:
    """Names and values of the script's figures for predictions (lines) of examples; none where it prints none."""
    pairs = list(zip(rows, examples, strict=True))
    if rule.printed.startswith("masks"):
        return mask_figures([overlap(row, example, rule.printed == "masks_ignored_hit") for row, example in pairs])
    if rule.printed == "boxes":
        ious = np.array([box_overlap(row["box"], example.box) for row, example in pairs], np.float32)
        return {f"acc@{each:g}": float((ious >= np.float32(each)).mean()) for each in rule.thresholds}
    if rule.printed == "letters":
        return {"accuracy": float(np.mean([letter(r["text"]) == letter(e.answer or "") for r, e in pairs]))}
    return {}


def printed_records(
    rule: TaskProtocol, rows: Sequence[Row], examples: Sequence[Example], **identity: Any
) -> list[Record]:
    """A record of each figure, without an interval; identity: the other fields of Record."""
    noted = [identity.pop("note", "")]
    if rule.ends_without_mask:
        stops = next((row["ref_id"] for row in rows if not row["token_ids"]), None)
        noted += [f"the script ends with an error at sample {stops}, which has no mask"] if stops is not None else []
    failures = sum(row["failure"] is not None for row in rows)
    note = "; ".join(filter(None, [*noted, "by the official script's arithmetic"]))
    place = {name: str(rows[0].get(name, "")) for name in ("dataset", "split", "protocol")}
    return [
        Record(metric=f"{PRINTED}{name}", value=value, n=len(rows), failures=failures, note=note, **place | identity)
        for name, value in printed(rule, rows, examples).items()
    ]


def overlap(row: Row, example: Example, ignored_hit: bool) -> tuple[int, int]:
    """Intersection and union in pixels; ignored pixels count as foreground of both sides if they are hits."""
    return dialects.overlap(row["mask"], mask_of(example), example.ignore, MASKS[ignored_hit].ignored)


def mask_figures(overlaps: Sequence[tuple[int, int]]) -> dict[str, float]:
    """cIoU and gIoU of intersections and unions; IoU is 1 where the union is empty."""
    inter, union = np.array(overlaps, np.int64).reshape(-1, 2).T
    return dialects.figures(inter, union, np.zeros(len(inter), bool), MASKS[0])


def box_overlap(box: Sequence[float] | None, truth: Box | None) -> float:
    """IoU in float32, as torchvision computes it; a box that could not be read is a box of zeros."""
    first, second = (np.array(each or (0, 0, 0, 0), np.float32) for each in (box, truth))
    sides = np.clip(np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2]), 0, None)
    inter = sides[0] * sides[1]
    areas = [(each[2] - each[0]) * (each[3] - each[1]) for each in (first, second)]
    union = areas[0] + areas[1] - inter
    return float(inter / union) if union else 0.0


def letter(text: str) -> str:
    """The option that an official evaluation reads in an answer: a leading "X.", else the first letter from A to E that
    stands alone anywhere, in either case; what is none of A to D counts as A."""
    found = LEADING.match(text) or SINGLE_PROCESS.search(text)
    named = found[1].upper() if found else "A"
    return named if named in LETTERS else "A"
