"""What weights of fewer bits change: the same requests with and without them, one at a time.

bfloat16 is compared with float32, 8-bit integers with the precision that the rest of the model has. Counted are answers
and mask tokens that differ, and the difference in cIoU with its paired interval over images. A random model has no
ground truth to be measured with, so this is for trained ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from bench.evaluate.statistics import ratio_intervals, training_differences
from bench.records import ROUNDING, Record
from methods.base import Example, Model, Prediction, Request, UserError
from methods.files import printable
from methods.registry import method_spec

INT8 = {"weights": "int8"}  # the variant


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


def float32_answers(load: Callable[[], Model], requests: Sequence[Request]) -> list[Prediction] | None:
    """Answers of the model that `load` makes with float32 weights; None, and a line that says so, where it does not fit
    into a GPU's memory."""
    try:
        return answers(load(), requests)
    except (UserError, torch.OutOfMemoryError) as error:
        print(printable(f"bfloat16 is not compared with float32: {error}"), file=sys.stderr)
        return None


def told(name: str, records: Sequence[Record]) -> str:
    """The records of `cost_records` in a line."""
    found = {record.metric: record for record in records}
    variant = found["ciou"].variant
    weights = variant.get("weights") or found["ciou"].precision
    gap = found["ciou_difference"]
    return (
        f"{name}: {weights} changes {100 * found['changed_answers'].value:.1f} % of {gap.n} answers, "
        f"{100 * found['changed_tokens'].value:.2f} % of their mask tokens, and cIoU by {100 * gap.value:+.2f} points"
    )


def cost_records(
    before: Sequence[Prediction], after: Sequence[Prediction], examples: Sequence[Example], seed: int, **identity: Any
) -> list[Record]:
    """`changed_answers` and `changed_tokens` (shares), `ciou` and `ciou_before`, and `ciou_difference`."""
    identity |= {"kind": ROUNDING, "n": len(examples), "seed": seed}
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
