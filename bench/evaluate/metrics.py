"""The scores, as pure functions: one sample -> `SampleScore`, many samples -> `aggregate`.

Conventions (they differ between repositories, and the differences move the numbers):

- Pixel counts are integers, sums are int64, there is no epsilon. Ignored pixels are background in both masks for every
  measure of agreement (the ground truth's area and the boxes are taken before that).
- Both masks empty: IoU 1. One empty: 0. A missing mask is an empty mask and a failure; it is never left out, and it
  agrees with nothing: where the ground truth is empty too, no answer scores 0 in every measure.
- That a sample has no target is said by the dataset, never by a ground truth that happens to be empty.
- `ciou` is the sum of intersections over the sum of unions (oIoU, overall IoU elsewhere); `giou` is the mean of the
  samples' IoU (mIoU elsewhere; never the box GIoU).
- Boxes are x1, y1, x2, y2 in pixels with exclusive ends: one pixel has area 1.
- "Small" is HiMTok's appendix F: ground-truth area strictly below 4 % of the picture, empty ones left out.
  `@small`, `@medium`, `@large` are COCO's buckets, cut at 32^2 and 96^2 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bench.data.boxes import box_iou
from bench.evaluate.boundary import bf_davis, bf_score, boundary_iou
from methods.base import Box

METRICS = 2  # raise it when a score of the same masks changes, so that kept scores are made anew
SMALL_FRACTION = 0.04
BUCKETS = {"small": (1, 32**2), "medium": (32**2, 96**2), "large": (96**2, float("inf"))}  # low <= area < high
BOX_THRESHOLDS = (0.5, 0.7, 0.75, 0.9)


@dataclass(frozen=True)
class SampleScore:
    """One prediction against one truth. Counts in pixels, everything else in 0..1 unless it says otherwise."""

    intersection: int
    union: int
    iou: float
    gt_area: int
    gt_area_fraction: float  # gt_area / (H * W)
    bf: float
    bf_precision: float | None  # None when either mask is empty
    bf_recall: float | None
    bf_davis: float
    biou: float
    box_mask: Box | None  # the box around the predicted mask
    box_iou_mask: float  # of that box; 0 when there is none
    box_iou_text: float | None  # of the box written in the text; 0 when it is missing, None when none was asked for
    failure: str | None = None
    no_target: bool = False  # the dataset says that nothing is meant

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> SampleScore:
        """The inverse of as_dict; other keys of the row are left aside."""
        values = {name: row[name] for name in cls.__dataclass_fields__}
        return cls(**values | {"box_mask": tuple(row["box_mask"]) if row["box_mask"] else None})


def score(
    pred: np.ndarray,
    gt: np.ndarray,
    ignore: np.ndarray | None = None,
    box_text: Box | None = None,
    box_gt: Box | None = None,
    failure: str | None = None,
    box_asked: bool = True,
    no_target: bool = False,
    answered: bool | None = None,
) -> SampleScore:
    """Score one predicted mask and one written box.

    pred, gt, ignore: bool[H, W] of one shape. box_gt: the annotated box; without it the box around gt serves.
    answered: whether the mask is an answer, even if something else about it failed; None: if there is no failure.
    Raises ValueError when shapes or types do not fit.
    """
    masks = [pred, gt] if ignore is None else [pred, gt, ignore]
    if any(mask.shape != gt.shape or mask.ndim != 2 or mask.dtype != np.bool_ for mask in masks):
        got = ", ".join(f"{mask.dtype}{list(mask.shape)}" for mask in masks)
        raise ValueError(f"Masks must be bool[H, W] of one shape, got {got}.")
    seen, true = (pred, gt) if ignore is None else (pred & ~ignore, gt & ~ignore)
    intersection, union = int(np.count_nonzero(seen & true)), int(np.count_nonzero(seen | true))
    area = int(np.count_nonzero(gt))
    edge = bf_score(seen, true)
    given = failure is None if answered is None else answered
    agrees = 1.0 if given or union else 0.0  # an empty mask that nobody wrote agrees with nothing
    box_gt, box_mask = box_gt or mask_box(gt), mask_box(pred)
    return SampleScore(
        intersection=intersection,
        union=union,
        iou=intersection / union if union else agrees,
        gt_area=area,
        gt_area_fraction=area / gt.size,
        bf=edge.f * agrees,
        bf_precision=edge.precision,
        bf_recall=edge.recall,
        bf_davis=bf_davis(seen, true) * agrees,
        biou=boundary_iou(seen, true) * agrees,
        box_mask=box_mask,
        box_iou_mask=box_iou(box_mask, box_gt),
        box_iou_text=box_iou(box_text, box_gt) if box_asked or box_text else None,
        failure=failure,
        no_target=no_target,
    )


def mask_box(mask: np.ndarray) -> Box | None:
    """The smallest box around the true pixels of bool[H, W], ends exclusive; None for an empty mask."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not columns.size:
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def terms(scores: Sequence[SampleScore]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Every aggregate as a ratio of sums: name -> (numerators [N], denominators [N]).

    The mean is the ratio with ones below; a subset is the ratio with zeros for the samples outside it. This one form
    is what lets `statistics` resample all metrics at once.
    """

    def column(name: str) -> np.ndarray:
        return np.array([getattr(sample, name) for sample in scores])

    inter, union, iou, area = (column(name) for name in ("intersection", "union", "iou", "gt_area"))
    one = np.ones(len(scores), np.int64)
    small = (area > 0) & (column("gt_area_fraction") < SMALL_FRACTION)
    table = {
        "ciou": (inter, union),
        "giou": (iou, one),
        "small_ciou": (inter * small, union * small),
        "bf_score": (column("bf"), one),
        "bf_davis": (column("bf_davis"), one),
        "biou": (column("biou"), one),
    }
    for name, (low, high) in BUCKETS.items():
        inside = (area >= low) & (area < high)
        table[f"ciou@{name}"] = (inter * inside, union * inside)
        table[f"giou@{name}"] = (iou * inside, one * inside)
    written = column("box_iou_text")
    asked = np.array([value is not None for value in written], bool)
    written = np.where(asked, written, 0.0).astype(float)
    for threshold in BOX_THRESHOLDS:
        table[f"acc@{threshold}"] = ((written >= threshold) * asked, asked * one)
        table[f"mask_acc@{threshold}"] = ((column("box_iou_mask") >= threshold) * one, one)
    return table


def support(scores: Sequence[SampleScore]) -> dict[str, int]:
    """How many samples stand behind each aggregate."""
    area = np.array([sample.gt_area for sample in scores])
    fraction = np.array([sample.gt_area_fraction for sample in scores])
    counts = {"small_ciou": int(((area > 0) & (fraction < SMALL_FRACTION)).sum())}
    for name, (low, high) in BUCKETS.items():
        counts[f"ciou@{name}"] = counts[f"giou@{name}"] = int(((area >= low) & (area < high)).sum())
    asked = sum(sample.box_iou_text is not None for sample in scores)
    counts |= {f"acc@{threshold}": asked for threshold in BOX_THRESHOLDS}
    return {name: counts.get(name, len(scores)) for name in terms(scores)}


def ratio(numerator: float, denominator: float) -> float:
    """A ratio of sums; NaN over nothing."""
    return float(numerator / denominator) if denominator else float("nan")


def aggregate(scores: Sequence[SampleScore]) -> dict[str, float | int]:
    """All figures of a set of samples: the ratios of `terms`, plus small_n, failures and n."""
    figures: dict[str, float | int] = {
        name: ratio(top.sum(), below.sum()) for name, (top, below) in terms(scores).items()
    }
    figures["small_n"] = support(scores)["small_ciou"]
    figures["failures"] = sum(sample.failure is not None for sample in scores)
    figures["n"] = len(scores)
    return figures
