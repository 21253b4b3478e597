"""Check this package's metrics against reference answers kept in a folder: `genseg parity DIR`.

Every `*.json` of the folder with a list "pairs" is checked. A pair holds two masks (COCO RLE: pred, gt, and ignore or
null) and any of the answers named in `answers`; "aggregate_without_ignore" holds the figures of the pairs that have no
ignore region, each a picture of its own. Integers must agree exactly, reals within 1e-9.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.evaluate import rle
from bench.evaluate.boundary import bf_score
from bench.evaluate.metrics import SampleScore, aggregate, mask_box, score
from methods.base import UserError

TOLERANCE = 1e-9


class Check(NamedTuple):
    """One comparison. `reference` None means that there is no such figure (no box, no boundary)."""

    name: str
    value: Any
    reference: Any
    ok: bool


def check(folder: Path | str) -> list[Check]:
    """Compare everything the folder holds. Raises UserError when there is nothing of this form in it."""
    files = [path for path in sorted(Path(folder).glob("*.json")) if "pairs" in _read(path)]
    if not files:
        raise UserError(f"{folder}: no JSON file with a list of mask pairs; give a folder of reference answers.")
    return [result for path in files for result in check_file(path)]


def check_file(path: Path) -> list[Check]:
    """Compare one file of reference answers."""
    content, results, kept = _read(path), [], []
    for pair in content["pairs"]:
        pred, gt, ignore = (pair[key] and rle.decode(pair[key]) for key in ("pred", "gt", "ignore"))
        # The box of the mask stands in for the written one, so that both accuracies are exercised.
        sample = score(pred, gt, ignore, box_text=mask_box(pred))
        found = answers(sample, pred, gt)
        results += [_compare(f"{pair['name']}: {key}", found[key], pair[key]) for key in found if key in pair]
        if ignore is None:
            kept.append(sample)
    expected = content.get("aggregate_without_ignore")
    return results + (_check_aggregate(aggregate(kept), expected) if expected else [])


def answers(sample: SampleScore, pred: np.ndarray, gt: np.ndarray) -> dict[str, Any]:
    """Our figures for one pair, under the names that the reference files use."""
    boxes = [mask_box(pred), mask_box(gt)]
    return {
        "intersection": sample.intersection,
        "union": sample.union,
        "iou": sample.iou,
        "gt_area_fraction": sample.gt_area_fraction,
        "bf": sample.bf,
        "bf_precision": sample.bf_precision,
        "bf_recall": sample.bf_recall,
        "bf_nonstrict": bf_score(pred, gt, strict=False).f,
        "bf_davis": sample.bf_davis,
        "biou": sample.biou,
        "box_pred": list(boxes[0]) if boxes[0] else None,
        "box_gt": list(boxes[1]) if boxes[1] else None,
        "box_iou": sample.box_iou_mask,
    }


def _check_aggregate(figures: dict[str, float | int], expected: dict[str, Any]) -> list[Check]:
    names = {"bf_mean": "bf_score"}
    flat = {key: value for key, value in expected.items() if not isinstance(value, dict)}
    flat |= {f"acc@{threshold}": value for threshold, value in expected.get("acc", {}).items()}
    results = [_compare(f"aggregate: {key}", figures[names.get(key, key)], value) for key, value in flat.items()]
    for threshold, value in expected.get("acc", {}).items():
        results.append(_compare(f"aggregate: mask_acc@{threshold}", figures[f"mask_acc@{threshold}"], value))
    return results


def _compare(name: str, value: Any, reference: Any) -> Check:
    if value is None or reference is None:
        return Check(name, value, reference, value is None and reference is None)
    if isinstance(value, int):
        return Check(name, value, reference, value == reference)
    return Check(name, value, reference, bool(np.allclose(value, reference, rtol=0, atol=TOLERANCE)))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not a JSON file ({error}); copy it again.") from None
    return content if isinstance(content, dict) else {}
