"""One sample: a predicted mask and a written box against the ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.data.boxes import box_iou
from bench.evaluate.metrics.boundary import Pair, bf_of, biou_of, davis_of, mask_box, window_of
from methods.base import Box


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
    category: str | None = None  # the class of the target, where the dataset has classes
    corrections: int | None = None  # mask tokens in whose place the likeliest one was not allowed, if counted

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))

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
    category: str | None = None,
    corrections: int | None = None,
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
    box_mask, around_gt = mask_box(pred), mask_box(gt)
    window = window_of(box_mask, around_gt)  # outside of it there is nothing to count
    seen, true = (np.ascontiguousarray(mask[window]) for mask in (pred, gt))
    area = int(np.count_nonzero(true))
    if ignore is not None:
        seen, true = seen & ~ignore[window], true & ~ignore[window]
    intersection, union = int(np.count_nonzero(seen & true)), int(np.count_nonzero(seen | true))
    pair = Pair(seen.view(np.uint8), true.view(np.uint8), gt.shape)
    edge = bf_of(pair)
    given = failure is None if answered is None else answered
    agrees = 1.0 if given or union else 0.0  # an empty mask that nobody wrote agrees with nothing
    box_gt = box_gt or around_gt
    return SampleScore(
        intersection=intersection,
        union=union,
        iou=intersection / union if union else agrees,
        gt_area=area,
        gt_area_fraction=area / gt.size,
        bf=edge.f * agrees,
        bf_precision=edge.precision,
        bf_recall=edge.recall,
        bf_davis=davis_of(pair) * agrees,
        biou=biou_of(pair) * agrees,
        box_mask=box_mask,
        box_iou_mask=box_iou(box_mask, box_gt),
        box_iou_text=box_iou(box_text, box_gt) if box_asked or box_text else None,
        failure=failure,
        no_target=no_target,
        category=category,
        corrections=corrections,
    )
