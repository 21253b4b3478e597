"""COCO segmentations: run lengths, in which predictions are stored, and the polygons and run lengths of annotations.

Everything that pycocotools cannot survive is refused here with a ValueError that says what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco

from bench.data.boxes import FAR, is_number
from methods.base import Box


def encode(mask: np.ndarray) -> dict[str, Any]:
    """bool[H, W] -> {"size": [H, W], "counts": str}, ready for JSON."""
    code = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


def decode(code: Mapping[str, Any]) -> np.ndarray:
    """The inverse of encode. Raises ValueError when the runs do not fill the size they name."""
    height, width = (int(side) for side in code["size"])
    return rasterize(code, height, width) if height * width else np.zeros((height, width), bool)


def rasterize(segmentation: Any, height: int, width: int) -> np.ndarray:
    """A COCO segmentation -> bool [height, width]: polygons, an RLE (compressed or not), or a list of RLEs.

    Parts are united. Raises ValueError if an RLE is not of that size or the form is unknown.
    """
    return coco.decode(coco.merge(_parts(segmentation, height, width))).astype(bool)


def extent(segmentation: Any, height: int, width: int) -> Box | None:
    """The box around a segmentation as xyxy, without decoding it: of the polygons' vertices, or of the run lengths'
    pixels. None if there is none. Raises ValueError where `rasterize` would."""
    if _is_polygons(segmentation):
        _check_polygons(segmentation)
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in segmentation]).astype(float)
        return (*points.min(0).tolist(), *points.max(0).tolist())
    x, y, w, h = coco.toBbox(coco.merge(_parts(segmentation, height, width))).tolist()
    return (x, y, x + w, y + h) if w and h else None


def _is_polygons(segmentation: Any) -> bool:
    return isinstance(segmentation, list) and bool(segmentation) and not isinstance(segmentation[0], Mapping)


def _parts(segmentation: Any, height: int, width: int) -> list[dict[str, Any]]:
    """The compressed RLE of each part."""
    if isinstance(segmentation, Mapping):
        return [_compressed(segmentation, height, width)]
    if _is_polygons(segmentation):
        _check_polygons(segmentation)
        return coco.frPyObjects(segmentation, height, width)
    if isinstance(segmentation, list) and segmentation:
        return [_compressed(part, height, width) for part in segmentation]
    raise ValueError("neither polygons nor RLE")


def _check_polygons(polygons: list[Any]) -> None:
    if any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        raise ValueError("a polygon needs at least three points")
    if not all(is_number(value) and abs(value) < FAR for polygon in polygons for value in polygon):
        raise ValueError("a coordinate of a polygon is no number or far outside")


def _compressed(part: Mapping[str, Any], height: int, width: int) -> dict[str, Any]:
    size = [int(value) for value in part["size"]]
    if size != [height, width]:
        raise ValueError(f"RLE of size {size} for an image of {[height, width]} (height, width)")
    counts = part["counts"]
    if isinstance(counts, list):
        if any(not isinstance(count, int) or count < 0 for count in counts):
            raise ValueError("RLE counts have a run that is no whole number from 0 on")
        if sum(counts) != height * width:
            raise ValueError(f"RLE counts add up to {sum(counts)} of {height * width} pixels")
        return coco.frPyObjects({"size": size, "counts": counts}, height, width)
    runs = counts.encode() if isinstance(counts, str) else counts
    encoded = {"size": size, "counts": runs}
    if _run_total(runs) != height * width:
        raise ValueError("RLE counts do not cover the image")
    return encoded


def _run_total(counts: bytes) -> int:
    """The number of pixels that compressed counts describe: pycocotools reads past its memory if it is wrong.

    COCO's code: six bits a character from "0" on, bit 6 continues, bit 5 of the last is the sign; from the third
    run on, the difference to the run two before is stored.
    """
    runs: list[int] = []
    value = shift = 0
    for byte in counts:
        code = byte - 48
        if not 0 <= code < 64:
            raise ValueError("RLE counts have a character outside COCO's alphabet")
        value |= (code & 31) << shift
        shift += 5
        if shift > 35:  # COCO's code writes no more than seven characters, and its reader overflows at more
            raise ValueError("RLE counts have a number that is too long")
        if not code & 32:
            if code & 16:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            if runs[-1] < 0:
                raise ValueError("RLE counts have a negative run")
            value = shift = 0
    if shift:
        raise ValueError("RLE counts end within a number")
    return sum(runs)
