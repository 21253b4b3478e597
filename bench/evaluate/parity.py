"""Check this package's metrics against reference answers kept in a folder: `genseg parity DIR`.

Every `*.json` of the folder with a list "pairs" is checked, all pairs of a quantity at once. A pair holds two masks
(COCO RLE: pred, gt, and ignore or null) and any of the answers named in `answers`; "aggregate_without_ignore" holds
the figures of the pairs that have no ignore region, each an image of its own. Integers must agree exactly,
reals within 1e-9.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import rle
from bench.evaluate.metrics import SampleScore, aggregate, mask_box, score
from bench.evaluate.metrics.boundary import bf_score
from methods.base import UserError
from methods.check import Check

TOLERANCE = 1e-9


def recognises(folder: Path) -> bool:
    """Whether the folder holds a file of reference answers."""
    return bool(_files(folder))


def check(folder: Path | str) -> list[Check]:
    """Compare everything the folder holds. Raises UserError when there is nothing of this form in it."""
    files = _files(Path(folder))
    if not files:
        raise UserError(f"{folder}: no JSON file with a list of mask pairs; give a folder of reference answers.")
    return [result for path in files for result in check_file(path)]


def _files(folder: Path) -> list[Path]:
    return [
        path for path in sorted(folder.glob("*.json")) if b'"pairs"' in path.read_bytes() and "pairs" in _read(path)
    ]


def check_file(path: Path) -> list[Check]:
    """Compare one file of reference answers: one result per quantity, then the aggregates."""
    content, kept = _read(path), []
    compared: dict[str, list[tuple[str, Any, Any]]] = {}
    for pair in content["pairs"]:
        gt = rle.decode(pair["gt"])
        pred = rle.decode(pair["pred"]) if pair["pred"] else np.zeros_like(gt)  # a missing mask is an empty one
        ignore = rle.decode(pair["ignore"]) if pair.get("ignore") else None
        # The box of the mask stands in for the written one, so that both accuracies are exercised.
        sample = score(pred, gt, ignore, box_text=mask_box(pred))
        for key, value in answers(sample, pred, gt, ignore).items():
            if key in pair:
                compared.setdefault(key, []).append((pair["name"], value, pair[key]))
        if ignore is None:
            kept.append(sample)
    results = [_compare_all(key, triples) for key, triples in compared.items()]
    expected = content.get("aggregate_without_ignore")
    return results + (_check_aggregate(aggregate(kept), expected) if expected else [])


def answers(sample: SampleScore, pred: np.ndarray, gt: np.ndarray, ignore: np.ndarray | None = None) -> dict[str, Any]:
    """Our figures for one pair, under the names that the reference files use."""
    boxes = [mask_box(pred), mask_box(gt)]
    seen, true = (pred, gt) if ignore is None else (pred & ~ignore, gt & ~ignore)
    return {
        "intersection": sample.intersection,
        "union": sample.union,
        "iou": sample.iou,
        "gt_area_fraction": sample.gt_area_fraction,
        "bf": sample.bf,
        "bf_precision": sample.bf_precision,
        "bf_recall": sample.bf_recall,
        "bf_nonstrict": bf_score(seen, true, strict=False).f,
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
    flat |= {f"mask_acc@{threshold}": value for threshold, value in expected.get("acc", {}).items()}
    return [
        Check(f"aggregate: {key}", figures[names.get(key, key)], value, _agree(figures[names.get(key, key)], value))
        for key, value in flat.items()
    ]


def _compare_all(key: str, triples: list[tuple[str, Any, Any]]) -> Check:
    """One quantity of all pairs -> the number that agree, and the first pair that does not."""
    wrong = [triple for triple in triples if not _agree(*triple[1:])]
    if not wrong:
        return Check(key, f"{len(triples)} of {len(triples)}", f"within {TOLERANCE:.0e}", True)
    name, value, reference = wrong[0]
    return Check(key, f"{len(wrong)} of {len(triples)} differ; {name}: {value}", reference, False)


def _agree(value: Any, reference: Any) -> bool:
    """Integers exactly, reals within the tolerance; None (no box, no boundary) only with None."""
    if value is None or reference is None:
        return value is reference
    if isinstance(value, int):
        return value == reference
    return bool(np.allclose(value, reference, rtol=0, atol=TOLERANCE))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not a JSON file ({error}); copy it again.") from None
    return content if isinstance(content, dict) else {}
