"""Two forms of one model, asked the same: what is compared, and the records that come of it."""

import time

import numpy as np
import pytest
import torch

from bench.latency.decoding_orders import Pairs, ask_both, to_records
from methods.base import Decoding, Prediction, Request


class Writer:
    """Writes the tokens that it is told for each request, at a pace."""

    device, decoding = torch.device("cpu"), Decoding()

    def __init__(self, log, name, ids, seconds):
        self.log, self.name, self.ids, self.seconds = log, name, ids, seconds

    def segment(self, requests, decoding=None):
        (request,) = requests
        self.log.append((self.name, request.image))
        time.sleep(self.seconds)
        ids = self.ids[request.image]
        return [Prediction(np.zeros((1, 1), bool), token_ids=ids, steps=len(ids))]


def test_both_are_asked_in_turn_and_compared():
    log = []
    first = Writer(log, "first", [(1, 2), (3,), (), ()], 0.001)
    second = Writer(log, "second", [(1, 2), (4,), (), (5,)], 0.02)
    found = ask_both(first, second, [Request(i, ("it",)) for i in range(4)], 1, "test")
    assert log == [(name, i) for i in (0, 0, 1, 2, 3) for name in ("first", "second")]
    assert found.same.tolist() == [True, False, False, False]  # two answers without a mask are not equal masks
    assert found.failed.tolist() == [False, False, True, True]
    assert found.steps.tolist() == [[2, 2], [1, 1], [0, 0], [0, 1]]
    assert (found.seconds[:, 1] > found.seconds[:, 0]).all()


def test_records_by_hand():
    plain, ratios = np.arange(1, 10) / 100, np.array([2, 3, 4, 5, 6, 7, 8, 9, 10])
    pairs = Pairs(np.stack([plain, plain * ratios], 1), np.tile([12, 90], (9, 1)), np.arange(9) > 0, np.arange(9) > 7)
    identity = {"method": "m", "dataset": "d", "split": "val", "variant": {"order": "token"}}
    records = {record.metric: record for record in to_records(pairs, **identity)}
    values = {name: record.value for name, record in records.items()}
    assert values == pytest.approx(
        {"plain_median_ms": 50, "median_ms": 300, "ratio": 6, "plain_steps": 12, "steps": 90, "same": 8}
    )
    assert records["ratio"].low < 6 < records["ratio"].high
    assert {(r.kind, r.n, r.failures, r.label) for r in records.values()} == {
        ("decoding_order", 9, 1, "m (order=token)")
    }
