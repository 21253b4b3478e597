"""What limits a score: which object was marked, and how well, by the attributes of the sample.

An answer is localized if its mask overlaps the target (IoU) more than any other object of the image. The share of these
is the localization accuracy; with the gIoU when localized it makes the gIoU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bench.data import rle
from bench.evaluate.statistics import ratio_intervals
from bench.records import BREAKDOWN, Record, Settings

# by which the samples are grouped, where a dataset knows them; the last three are told from the mask
FACTS = ("style", "kind", "distractors", "small", "size", "parts", "outline")
Objects = Callable[[int | str], Sequence[np.ndarray]]  # image -> the masks bool [H, W] of its objects


def breakdown(rows: Sequence[Mapping[str, Any]], objects: Objects, seed: int, **identity: Any) -> list[Record]:
    """Lines of scores -> records of every group: `localization_accuracy`, `giou_localized` (of those alone), `giou`
    and `ciou`, with intervals over images. The first group holds all samples.

    `identity` are fields of `Record`.
    """
    localized = _localized(rows, objects)
    iou = np.array([row["iou"] for row in rows])
    inside, union = (np.array([row[key] for row in rows]) for key in ("intersection", "union"))
    records = []
    for group, members in _groups(rows):
        ones = np.ones(len(members))
        table = {
            "localization_accuracy": (localized[members], ones),
            "giou_localized": (iou[members] * localized[members], localized[members]),
            "giou": (iou[members], ones),
            "ciou": (inside[members], union[members]),
        }
        images = [rows[index]["image_id"] for index in members]
        for metric, found in ratio_intervals(table, images, seed).items():
            if np.isfinite(found.value):
                low, high = (value if np.isfinite(value) else None for value in (found.low, found.high))
                place = {key: rows[0][key] for key in ("dataset", "split")} | identity
                records.append(
                    Record(
                        **place, group=group, metric=metric, value=found.value, low=low, high=high,
                        n=len(members), kind=BREAKDOWN, protocol=rows[0]["protocol"], seed=seed,
                    )
                )  # fmt: skip
    return records


def _localized(rows: Sequence[Mapping[str, Any]], objects: Objects) -> np.ndarray:
    """Whether each answer marks its target rather than another object, float [N]."""
    found = np.zeros(len(rows))
    for index, row in enumerate(rows):
        if row["iou"] > 0:
            mask = rle.decode(row["mask"])
            overlaps = sorted((overlap(mask, other) for other in objects(row["image_id"])), reverse=True)
            found[index] = not overlaps or row["iou"] >= overlaps[0] - 1e-9
    return found


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """IoU of two masks bool [H, W], 0 where both are empty."""
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 0.0


def _groups(rows: Sequence[Mapping[str, Any]]) -> list[tuple[Settings, list[int]]]:
    """(what a group's samples share, the indices of its rows)."""
    groups: list[tuple[Settings, list[int]]] = [({}, list(range(len(rows))))]
    for fact in FACTS:
        values = [row["facts"].get(fact) for row in rows]
        for value in sorted({value for value in values if value is not None}):
            groups.append(({fact: value}, [index for index, found in enumerate(values) if found == value]))
    return groups
