"""Integer weights: close to the real ones, in the language model's blocks only."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from methods.base import Decoding, Request
from methods.internvl.generation.int8 import Int8Linear


@settings(max_examples=40, deadline=None)
@given(wide=st.integers(1, 40), out=st.integers(1, 9), scale=st.sampled_from([1e-6, 1e-2, 1.0, 300.0]))
def test_a_weight_moves_by_at_most_half_a_step(wide, out, scale):
    torch.manual_seed(wide)
    linear = nn.Linear(wide, out)
    with torch.no_grad():
        linear.weight.normal_(0, scale)
        linear.weight[0] = 0
        integers = Int8Linear(linear)
        back = integers.weight * integers.scale[:, None]
        step = linear.weight.abs().amax(1, keepdim=True) / 127
        assert ((back - linear.weight).abs() <= step * 0.5001 + 1e-12).all()
        assert int(integers.weight.abs().max()) <= 127
        x = torch.randn(2, 3, wide)
        torch.testing.assert_close(integers(x), x @ back.T + linear.bias, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("rows", [1, 4, 5])
def test_both_products_agree_in_bfloat16(rows):
    torch.manual_seed(0)
    integers = Int8Linear(nn.Linear(64, 48))
    x = torch.randn(rows, 1, 64)
    with torch.no_grad():
        wanted, found = integers(x), integers.bfloat16()(x.bfloat16()).float()
    assert found.shape == wanted.shape == (rows, 1, 48)
    torch.testing.assert_close(found, wanted, rtol=0.03, atol=0.03)


def test_only_the_blocks_of_the_language_model_change(writer):
    head = writer.backbone.native.lm_head
    before = sum(p.numel() for p in writer.backbone.language_model.layers.parameters())
    writer.quantise()
    writer.quantise()  # a second time changes nothing
    layers = writer.backbone.language_model.layers
    assert {type(m) for m in layers.modules() if hasattr(m, "weight") and m.weight.ndim == 2} == {Int8Linear}
    assert sum(p.numel() for p in layers.parameters()) < before / 20  # norms and biases
    assert writer.backbone.native.lm_head is head and isinstance(head, nn.Linear)
    assert not [m for m in (*writer.backbone.vision_tower.modules(), *writer.mask_tokenizer.modules())
                if isinstance(m, Int8Linear)]  # fmt: skip


@pytest.mark.parametrize("path", ["fast", "cuda_graphs", "official"])
def test_a_quantised_model_answers_on_every_path(writer, writing, examples, path):
    asked = [Request(examples[0].image, examples[0].expressions[:1])]
    writing(writer).quantise()
    answer = writer.segment(asked, Decoding(path))[0]
    assert answer.failure is None and len(answer.token_ids) == writer.mask_tokenizer.length
