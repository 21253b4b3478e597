"""What masks as text are taken to cost."""

import math

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from methods.common.cost import Load
from methods.internvl import cost
from methods.registry import method_class
from methods.textmask.cost import answering, estimate


def test_texts_are_of_the_usual_length_but_for_the_largest_load():
    with FakeTensorMode():
        model = method_class("textrows").build({"backbone": "random:tiny", "vocabulary": 320}, lambda: ())
        usual, largest = (estimate(model, Load(1, 1, 10, 4, 1, tiles), torch.float32) for tiles in (1, math.inf))
        plain = estimate(model, Load(1, 1, 10, 4, 0, 1), torch.float32)
        answer = answering(model, Load(1, 1, 10, 4, 1, 1), torch.float32)
        short = cost.answering(model, Load(1, 1, 10, 4, 1, 1), torch.float32, 64, 64)
    assert usual.tokens == plain.tokens + 64 + 3  # the marks around it, and a place
    assert largest.tokens == plain.tokens + 771 + 3
    assert answer.steps == 64 and answer.cache > 5 * short.cache
