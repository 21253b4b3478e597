"""Boxes: their IoU, and which of the forms in use a set of numbers has.

This project's boxes are x1, y1, x2, y2 in pixels with exclusive ends; COCO's annotations have x, y, width, height.
Other codes write 0..1, 0..1000, centres, or y before x. Read as pixels such boxes score 0 without any other sign, so
they are recognised here and refused by the reader; nothing is ever converted silently.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from methods.base import Box

FAR = 1e5  # pixels: no image is so large, and pycocotools fills the memory or crashes at coordinates far beyond
PIXELS, COCO = "x1, y1, x2, y2 in pixels", "x, y, width, height in pixels"
LAYOUTS: dict[str, Callable[[float, float, float, float], Box]] = {
    "x1, y1, x2, y2": lambda a, b, c, d: (a, b, c, d),
    "x, y, width, height": lambda a, b, c, d: (a, b, a + c, b + d),
    "centre x, centre y, width, height": lambda a, b, c, d: (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
    "y1, x1, y2, x2": lambda a, b, c, d: (b, a, d, c),
}
SCALES = {"in pixels": None, "in 0..1": 1.0, "in 0..1000": 1000.0}
FORMS = tuple(f"{layout} {scale}" for scale in SCALES for layout in LAYOUTS)
SURE, WRONG = 0.9, 0.5  # IoU that no box has by chance under a form that is not its own; IoU that counts as a miss
SHARE = 0.1  # of the boxes that must fit another form, two at least
GAIN, ENOUGH = 0.2, 10  # mean IoU that another form must gain over this many boxes, if none fits surely
BEYOND = 1.05  # times the image's side: a box further out is not in this image's pixels


def is_number(value: Any) -> bool:
    """Whether a value is a finite number (a truth value is none)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf


def is_box(value: Any) -> bool:
    """Whether a value is a list of four numbers that coordinates can be."""
    return isinstance(value, list) and len(value) == 4 and all(is_number(side) and abs(side) < FAR for side in value)


def coco_union(boxes: Sequence[Any]) -> Box | None:
    """The box around COCO boxes (x, y, width, height) as xyxy with exclusive ends; None if there are none, or if one
    is no box."""
    if not boxes or not all(is_box(box) for box in boxes):
        return None
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    return float(left), float(top), float(right), float(bottom)


def box_iou(a: Box | None, b: Box | None) -> float:
    """IoU of two boxes; 0 when either is missing, inverted, or has no area."""
    if a is None or b is None:
        return 0.0
    areas = [max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]) for box in (a, b)]
    if not all(areas):
        return 0.0
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return width * height / (areas[0] + areas[1] - width * height)


def read_as(form: str, box: Sequence[float], size: tuple[int, int]) -> Box:
    """Four numbers of a form -> x1, y1, x2, y2 in pixels of an image of size (H, W)."""
    layout, _, scale = form.rpartition(" in ")
    sides = LAYOUTS[layout](*box)
    unit = SCALES[f"in {scale}"]
    x, y = (1.0, 1.0) if unit is None else (size[1] / unit, size[0] / unit)
    return sides[0] * x, sides[1] * y, sides[2] * x, sides[3] * y


def other_form(
    boxes: Sequence[Sequence[float]], truths: Sequence[Box], sizes: Sequence[tuple[int, int]], form: str = PIXELS
) -> str | None:
    """The form that boxes seem to have if it is not `form`, else None.

    truths: what the boxes should be near, x1, y1, x2, y2 in pixels; sizes: (H, W) of their images. A form is named if
    boxes fit it so well that chance is ruled out and miss as they stand, or if no box can be of `form`.
    """
    if not boxes:
        return None
    found = {name: [box_iou(read_as(name, b, s), t) for b, t, s in zip(boxes, truths, sizes, strict=True)]
             for name in FORMS}  # fmt: skip
    own = found.pop(form)
    wins = {name: sum(a >= SURE and b < WRONG for a, b in zip(ious, own, strict=True)) for name, ious in found.items()}
    best = max(found, key=lambda name: (wins[name], sum(found[name])))
    gain = (sum(found[best]) - sum(own)) / len(own)
    if wins[best] >= max(min(2, len(own)), SHARE * len(own)) or (gain >= GAIN and len(own) >= ENOUGH):
        return best
    return out_of_range(boxes, sizes) if form == PIXELS else None


def out_of_range(boxes: Sequence[Sequence[float]], sizes: Sequence[tuple[int, int]]) -> str | None:
    """The scale of x1, y1, x2, y2 whose numbers cannot be pixels: all below 1, or most beyond their images."""
    top = max(max(box) for box in boxes)
    if top <= 1 and min(min(box) for box in boxes) >= 0 and any(b[2] > b[0] and b[3] > b[1] for b in boxes):
        return "x1, y1, x2, y2 in 0..1"
    beyond = [max(b[0], b[2]) > BEYOND * w or max(b[1], b[3]) > BEYOND * h
              for b, (h, w) in zip(boxes, sizes, strict=True)]  # fmt: skip
    if 2 * sum(beyond) <= len(boxes):
        return None
    return "x1, y1, x2, y2 in 0..1000" if top <= 1000 else "pixels of another image size"
