"""What weights of fewer bits change, counted by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.latency.rounding import answers, cost_records, float32_answers, quantise, told
from methods.base import Example, Prediction, Request, UserError


def mask(*filled: int) -> np.ndarray:
    return np.isin(np.arange(8), filled).reshape(2, 4)


EXAMPLES = [Example(None, ("it",), mask(0, 1, 2, 3), image_id=i) for i in range(4)]
IDENTITY = dict(method="m", dataset="d", split="val", variant={"weights": "int8"})


def test_shares_and_difference_by_hand():
    before = [Prediction(mask(0, 1, 2, 3), token_ids=(1, 2, 3, 4)) for _ in EXAMPLES]
    after = [*before[:3], Prediction(mask(0, 1), token_ids=(1, 2, 9))]
    records = {record.metric: record for record in cost_records(before, after, EXAMPLES, 0, **IDENTITY)}
    values = {metric: record.value for metric, record in records.items()}
    assert values == {
        "changed_answers": 0.25, "changed_tokens": 2 / 16, "ciou_before": 1.0, "ciou": 14 / 16,
        "ciou_difference": -2 / 16,
    }  # fmt: skip
    found = records["ciou_difference"]
    assert found.low < found.value <= found.high <= 0 and found.n == 4
    line = told("m", records.values())
    assert line == "m: int8 changes 25.0 % of 4 answers, 12.50 % of their mask tokens, and cIoU by -12.50 points"
    same = cost_records(before, before, EXAMPLES, 0, **IDENTITY)
    assert {record.value for record in same if "ciou" not in record.metric} == {0.0}


def test_a_method_without_integers_is_refused(himtok, monkeypatch):
    monkeypatch.setattr("bench.latency.rounding.method_spec", lambda name: SimpleNamespace(int8=False))
    with pytest.raises(UserError, match="himtok has no int8 weights"):
        quantise(himtok)


def test_a_model_that_does_not_fit_in_float32_is_told(capsys):
    def load():
        raise UserError("the weights need 35 GB, and 24 GB are free; choose bfloat16.")

    assert float32_answers(load, []) is None
    assert "not compared with float32: the weights need 35 GB" in capsys.readouterr().err


def test_a_gpu_is_refused():
    with pytest.raises(UserError, match="a GPU would convert each weight"):
        quantise(SimpleNamespace(name="himtok", device=torch.device("cuda")))


def test_real_answers_are_compared(writer, writing, examples):
    requests = [Request(example.image, example.expressions[:1]) for example in examples]
    before = answers(writing(writer), requests)
    quantise(writer)
    records = cost_records(before, answers(writer, requests), examples, 0, **IDENTITY)
    assert all(0 <= record.value <= 1 for record in records if "difference" not in record.metric)
