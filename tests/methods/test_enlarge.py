"""The cheaper ways of the mask tokenizers' decoders give the released code's images, and learning never takes them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from methods.enlarge import as_released, cheaply, double, plus, swish

CLOSE = dict(rtol=0, atol=2e-5)


@settings(max_examples=40, deadline=None)
@given(batch=st.integers(1, 2), channels=st.integers(1, 5), height=st.integers(1, 7), width=st.integers(1, 7),
       bias=st.booleans())  # fmt: skip
def test_doubling_in_four_phases_is_doubling_and_convolving(batch, channels, height, width, bias):
    torch.manual_seed(height * 10 + width)
    conv = nn.Conv2d(channels, 3, 3, padding=1, bias=bias)
    x = torch.randn(batch, channels, height, width)
    with torch.no_grad():
        wanted = conv(F.interpolate(x, scale_factor=2.0))
        torch.testing.assert_close(double(x, conv), wanted, **CLOSE)
        with as_released():
            assert torch.equal(double(x, conv), wanted)


def test_nothing_is_overwritten_where_gradients_are_wanted():
    x = torch.randn(1, 2, 3, 3, requires_grad=True)
    fresh = x * 1
    swish(fresh).sum().backward()
    assert not cheaply(x) and plus(fresh, x) is not fresh
    with torch.no_grad():
        fresh = torch.ones(2, 2, 2, 2)
        assert plus(fresh, fresh * 2) is fresh and fresh.unique().tolist() == [3]
        assert swish(fresh) is fresh
        with as_released():
            assert swish(fresh) is not fresh and plus(fresh, fresh) is not fresh


@pytest.mark.parametrize("name", ["himtok", "argenseg"])
def test_a_mask_tokenizer_draws_the_same_image(build, name):
    tokenizer = build(name).mask_tokenizer
    ids = torch.randint(0, tokenizer.size, (2, tokenizer.length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cheap = tokenizer.decode(ids)
        with as_released():
            released = tokenizer.decode(ids)
    assert not torch.equal(cheap, released)
    torch.testing.assert_close(cheap, released, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["himtok", "argenseg"])
def test_the_reference_path_draws_as_released(build, writing, name, examples, monkeypatch):
    from methods import enlarge
    from methods.base import Decoding, Request

    method = writing(build(name, **({"mask_tokenizer_config": "short"} if name == "argenseg" else {})))
    drawn = []
    interpolate = F.interpolate
    monkeypatch.setattr(enlarge.F, "interpolate", lambda *a, **k: (drawn.append(1), interpolate(*a, **k))[1])
    counts = []
    for path in ("fast", "official"):
        before = len(drawn)
        method.segment([Request(examples[0].image, examples[0].expressions[:1])], Decoding(path))
        counts.append(len(drawn) - before)
    assert counts[0] < counts[1]
