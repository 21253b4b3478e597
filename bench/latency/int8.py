"""What 8-bit weights change: the same questions before and after, one at a time.

Counted are answers and mask tokens that are others than before, and the difference of the cIoU with its paired interval
over images. A random model has no truth to be measured with, so this is for trained ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.evaluate.statistics import ratio_intervals, training_differences
from bench.records import INT8, Record
from methods.base import Example, Model, Prediction, Request, UserError
from methods.registry import method_spec

VARIANT = {"weights": "int8"}


def quantise(method: Model) -> None:
    """Turn the weights of the language model into integers. Raises UserError where the method cannot, and on a GPU: no
    product there reads integers, so that each would make a copy of its weight first and be slower."""
    if not method_spec(method.name).int8:
        raise UserError(f"{method.name} has no int8 weights; leave latency.int8 out.")
    if method.device.type == "cuda":
        raise UserError("latency.int8 is for a CPU: a GPU would convert each weight at each product; leave it out.")
    method.quantise()


def answers(method: Model, requests: Sequence[Request]) -> list[Prediction]:
    return [method.segment([request])[0] for request in requests]


def cost_records(
    before: Sequence[Prediction], after: Sequence[Prediction], examples: Sequence[Example], seed: int, **identity: Any
) -> list[Record]:
    """`changed_answers` and `changed_tokens` (shares), `ciou` and `ciou_before`, and `ciou_difference`."""
    identity |= {"kind": INT8, "n": len(examples), "seed": seed}
    pairs = list(zip(before, after, strict=True))
    tokens = [_changed(a.token_ids, b.token_ids) for a, b in pairs]
    ones = np.ones(len(pairs))
    changed = np.array([a.token_ids != b.token_ids for a, b in pairs], float)
    table = {"changed_answers": (changed, ones)}
    table["changed_tokens"] = tuple(np.array(column, float) for column in zip(*tokens, strict=True))
    table["ciou_before"], table["ciou"] = (_overlap(found, examples) for found in (before, after))
    images = [example.image_id for example in examples]
    found = ratio_intervals(table, images, seed)
    records = [
        Record(metric=name, value=figure.value, low=figure.low, high=figure.high, **identity)
        for name, figure in found.items()
    ]
    gap = training_differences([({"ciou": table["ciou"]}, {"ciou": table["ciou_before"]})], images, seed)["ciou"]
    return [*records, Record(metric="ciou_difference", value=gap.value, low=gap.low, high=gap.high, **identity)]


def _changed(first: Sequence[int], second: Sequence[int]) -> tuple[int, int]:
    """(tokens that differ or are missing, tokens)."""
    length = max(len(first), len(second))
    return length - sum(a == b for a, b in zip(first, second, strict=False)), length


def _overlap(found: Sequence[Prediction], examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of intersection and of union, float [N]."""
    masks = [(prediction.mask, example.mask) for prediction, example in zip(found, examples, strict=True)]
    return np.array([(a & b).sum() for a, b in masks], float), np.array([(a | b).sum() for a, b in masks], float)
