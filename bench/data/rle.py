"""COCO segmentations: run lengths, in which predictions are stored, and the polygons and run lengths of annotations.

Everything that pycocotools cannot survive is refused here with a ValueError that says what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
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
    if _is_polygons(segmentation):
        _check_polygons(segmentation)
        return coco.decode(coco.merge(coco.frPyObjects(segmentation, height, width))).view(bool)
    masks = [_filled(_runs(part, height, width), height, width) for part in _rles(segmentation)]
    return masks[0] if len(masks) == 1 else np.logical_or.reduce(masks)


def fill_polygons(segmentations: Sequence[Any], height: int, width: int) -> np.ndarray:
    """COCO segmentations -> the bool [height, width] of their union, polygons filled by OpenCV on vertices cut to whole
    numbers, as some evaluations draw them, run lengths decoded."""
    mask = np.zeros((height, width), np.uint8)
    for each in segmentations:
        if _is_polygons(each):
            _check_polygons(each)
            for polygon in each:
                cv2.fillPoly(mask, [np.reshape(polygon, (-1, 2)).astype(np.int32)], 1)
        elif each != []:
            mask |= rasterize(each, height, width)
    return mask.astype(bool)


def extent(segmentation: Any, height: int, width: int) -> Box | None:
    """The box around a segmentation as xyxy, without decoding it: of the polygons' vertices, or of the run lengths'
    pixels. None if there is none. Raises ValueError where `rasterize` would."""
    if _is_polygons(segmentation):
        _check_polygons(segmentation)
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in segmentation]).astype(float)
        return (*points.min(0).tolist(), *points.max(0).tolist())
    parts = [_compressed(part, height, width) for part in _rles(segmentation)]
    x, y, w, h = coco.toBbox(coco.merge(parts)).tolist()
    return (x, y, x + w, y + h) if w and h else None


def _is_polygons(segmentation: Any) -> bool:
    return isinstance(segmentation, list) and bool(segmentation) and not isinstance(segmentation[0], Mapping)


def _rles(segmentation: Any) -> list[Mapping[str, Any]]:
    """The RLE, or the RLEs."""
    if isinstance(segmentation, Mapping):
        return [segmentation]
    if isinstance(segmentation, list) and segmentation:
        return segmentation
    raise ValueError("neither polygons nor RLE")


def _check_polygons(polygons: list[Any]) -> None:
    if any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        raise ValueError("a polygon needs at least three points")
    if not all(is_number(value) and abs(value) < FAR for polygon in polygons for value in polygon):
        raise ValueError("a coordinate of a polygon is no number or far outside")


def _filled(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """bool [H, W] of run lengths, which go down the columns and begin with background."""
    values = np.zeros(len(runs), bool)
    values[1::2] = True
    return np.repeat(values, runs).reshape(width, height).T


def _compressed(part: Mapping[str, Any], height: int, width: int) -> dict[str, Any]:
    """An RLE as pycocotools takes it, which reads past its memory if the runs do not fill the size."""
    runs, counts = _runs(part, height, width), part["counts"]
    if isinstance(counts, list):
        return coco.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}


def _runs(part: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """The run lengths of an RLE, compressed or not, int64. Raises ValueError if they do not fill the size."""
    size = [int(value) for value in part["size"]]
    if size != [height, width]:
        raise ValueError(f"RLE of size {size} for an image of {[height, width]} (height, width)")
    counts = part["counts"]
    if isinstance(counts, list):
        if any(not isinstance(count, int) or count < 0 for count in counts):
            raise ValueError("RLE counts have a run that is no whole number from 0 on")
        if sum(counts) != height * width:
            raise ValueError(f"RLE counts add up to {sum(counts)} of {height * width} pixels")
        return np.array(counts, np.int64)
    runs = _decompressed(counts.encode() if isinstance(counts, str) else counts)
    if runs.sum() != height * width:
        raise ValueError("RLE counts do not cover the image")
    return runs


def _decompressed(counts: bytes) -> np.ndarray:
    """The run lengths of compressed counts, int64. Raises ValueError for what COCO's code does not write.

    That writes six bits a character from "0" on: bit 6 continues, bit 5 of the last is the sign; from the fourth run
    on, the difference to the run two before is stored.
    """
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if ((codes < 0) | (codes >= 64)).any():
        raise ValueError("RLE counts have a character outside those that COCO uses")
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate([[0], ends + 1])
    lengths = np.diff(np.append(starts, len(codes)))
    if (lengths > 7).any():  # COCO's code writes no more than seven characters, and its reader overflows at more
        raise ValueError("RLE counts have a number that is too long")
    if lengths[-1]:
        raise ValueError("RLE counts end within a number")
    starts, lengths = starts[:-1], lengths[:-1]
    if not len(starts):
        return starts
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 31) << 5 * place, starts)
    runs -= np.where(codes[ends] & 16, 1 << 5 * lengths, 0)
    runs[1::2], runs[2::2] = runs[1::2].cumsum(), runs[2::2].cumsum()
    if (runs < 0).any():
        raise ValueError("RLE counts have a negative run")
    return runs
