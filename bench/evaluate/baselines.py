"""Answers that need no model. Two do not even look at the image; two know every object but not the question.

They tell what a score is worth: a method that does not beat the largest object has not understood the expression.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from bench.data.dataset import Dataset
from bench.evaluate.metrics import mask_box
from methods.base import Example, Prediction

Objects = Sequence[np.ndarray]  # bool [H, W], the visible mask of every object of the image


def empty(example: Example, objects: Objects, seed: int) -> np.ndarray:
    return np.zeros_like(example.mask)


def full(example: Example, objects: Objects, seed: int) -> np.ndarray:
    return np.ones_like(example.mask)


def random_object(example: Example, objects: Objects, seed: int) -> np.ndarray:
    """One object of the scene, drawn again for every question."""
    key = zlib.crc32(f"{example.ref_id}|{example.expressions}".encode())
    rng = np.random.default_rng([seed, key])
    return objects[int(rng.integers(len(objects)))] if objects else empty(example, objects, seed)


def largest_object(example: Example, objects: Objects, seed: int) -> np.ndarray:
    return max(objects, key=np.count_nonzero) if objects else empty(example, objects, seed)


BASELINES: dict[str, Callable[[Example, Objects, int], np.ndarray]] = {
    "baseline:empty": empty,
    "baseline:full": full,
    "baseline:random-object": random_object,
    "baseline:largest-object": largest_object,
}


def applies(name: str, dataset: Dataset) -> bool:
    """Whether a baseline tells something of a dataset: where only what is asked for is annotated, one that chooses
    among the objects would know the answer."""
    return dataset.serves == "masks" and (dataset.knows_objects or BASELINES[name] in (empty, full))


def predict(name: str, example: Example, objects: Objects, seed: int) -> Prediction:
    """The baseline's mask, with the box around it as its written box."""
    mask = BASELINES[name](example, objects, seed)
    return Prediction(mask=mask, box=mask_box(mask))
