"""A run of two methods on four drawn questions, with a hostile expression among them."""

import numpy as np
import pytest
from PIL import Image

from bench.data import rle
from bench.data.dataset import ExampleDataset
from methods.base import Example
from methods.files import write_lines

HOSTILE = '</script><img src=x onerror="alert(1)">\'"&amp; $\\alpha_%{}\u2028\u202eright'
SHAPE = (48, 64)
TEXTS = ("red car", "the tall tree to the left", HOSTILE, "person holding an umbrella")


def block(left, width):
    mask = np.zeros(SHAPE, bool)
    mask[10:30, left : left + width] = True
    return mask


def answer(method, i, left, **more):
    mask, truth = block(left, 20), block(5 + i, 20)
    return {
        "dataset": "examples", "split": "val", "protocol": "per_expression", "ref_id": i, "sent_id": 0,
        "image_id": i // 2, "expression": TEXTS[i], "size": list(SHAPE), "mask": rle.encode(mask), "box": None,
        "text": "<mask>", "token_ids": [1, 2],
        "steps": 3, "failure": None, "method": method, "facts": {}, "gt_area": 400, "gt_area_fraction": 400 / 3072,
        "iou": float((mask & truth).sum() / (mask | truth).sum()),
    } | more  # fmt: skip


@pytest.fixture
def dataset():
    images = [Image.new("RGB", SHAPE[::-1], colour) for colour in ("grey", "teal")]
    return ExampleDataset([
        Example(images[i // 2], (text,), block(5 + i, 20), ref_id=i, image_id=i // 2) for i, text in enumerate(TEXTS)
    ])  # fmt: skip


@pytest.fixture
def scores(tmp_path):
    """The folder of lines of scores: two methods, the second without the last question; a baseline, an ablation."""
    folder = tmp_path / "runs" / "scores"
    one = [answer("himtok", i, 5 + 2 * i, failure="cut off" if i == 3 else None) for i in range(4)]
    two = [answer("argenseg", i, 25) for i in range(3)]
    write_lines(folder / "a.jsonl", one)
    write_lines(folder / "b.jsonl", two)
    write_lines(folder / "c.jsonl", [row | {"method": "baseline:empty"} for row in one])
    write_lines(folder / "d.jsonl", [row | {"tokens": 1} for row in one])
    write_lines(folder / "e.jsonl", [row | {"protocol": "reconstruction"} for row in one])
    return folder
