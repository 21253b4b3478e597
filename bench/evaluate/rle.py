"""Masks as COCO run lengths, the form in which predictions are stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco

from bench.data import refer


def encode(mask: np.ndarray) -> dict[str, Any]:
    """bool[H, W] -> {"size": [H, W], "counts": str}, ready for JSON."""
    code = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


def decode(code: Mapping[str, Any]) -> np.ndarray:
    """The inverse of encode. Raises ValueError when the runs do not fill the size they name."""
    height, width = (int(side) for side in code["size"])
    return refer.decode(code, height, width) if height * width else np.zeros((height, width), bool)
