"""Layers of the same input as one product: the same numbers, no second copy, only while the weights lie together."""

import pytest
import torch

from methods.internvl.generation.joined import Joined, groups, lay_together
from methods.internvl.generation.kv_cache import ALIGNED, additive
from methods.registry import method_class


@pytest.fixture
def layer(build):
    return build("boxes").backbone.language_model.layers[0]


@torch.no_grad()
def test_one_product_gives_what_the_layers_give(layer):
    x = torch.randn(1, 1, layer.self_attn.q_proj.in_features)
    for group in groups(layer):
        joined = Joined(group)
        assert joined.whole is not None
        for found, part in zip(joined(x), group, strict=True):
            torch.testing.assert_close(found, part(x), rtol=0, atol=1e-5)


@torch.no_grad()
def test_more_rows_are_multiplied_one_by_one_on_a_cpu(layer):
    for group in groups(layer):
        x = torch.randn(2, 3, group[0].in_features)
        for found, part in zip(Joined(group)(x), group, strict=True):
            assert torch.equal(found, part(x))


@torch.no_grad()
def test_changes_in_place_are_seen(layer):
    group = groups(layer)[0]
    joined, x = Joined(group), torch.randn(1, 1, group[0].in_features)
    group[1].weight.mul_(2)
    group[2].bias.add_(1)
    for found, part in zip(joined(x), group, strict=True):
        torch.testing.assert_close(found, part(x), rtol=0, atol=1e-5)


def test_no_weight_is_stored_twice(layer):
    weights = [part.weight for part in groups(layer)[0]]
    storage = weights[0].untyped_storage()
    assert {weight.untyped_storage()._cdata for weight in weights} == {storage._cdata}
    assert storage.nbytes() == sum(weight.nbytes for weight in weights)


@torch.no_grad()
@pytest.mark.parametrize("what", ["moved", "another type", "an adapter"])
def test_weights_that_no_longer_lie_together_are_used_one_by_one(layer, what):
    group = groups(layer)[1]
    if what == "moved":
        group[1].weight.data = group[1].weight.data.clone()
    elif what == "another type":
        layer.double()
    else:
        group = (torch.nn.Sequential(group[0]), group[1])
    x = torch.randn(1, 2, groups(layer)[1][1].in_features, dtype=groups(layer)[1][1].weight.dtype)
    joined = Joined(group)
    assert joined.whole is None
    for found, part in zip(joined(x), group, strict=True):
        assert torch.equal(found, part(x))


def test_a_model_is_saved_and_read_whole_and_lies_together(build, tmp_path):
    model = build("boxes")
    model.save_pretrained(tmp_path / "model")
    again = method_class("boxes").from_pretrained(tmp_path / "model")
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert all(Joined(group).whole is not None for group in groups(again.backbone.language_model.layers[-1]))


def test_training_moves_each_weight(build):
    """An optimiser has every layer's own weight, with a gradient of its own."""
    backbone = build("boxes").backbone
    lay_together(backbone.language_model)
    before = backbone.language_model.layers[0].self_attn.k_proj.weight.clone()
    backbone.run(torch.randn(1, 4, backbone.width)).sum().backward()
    torch.optim.SGD(backbone.parameters(), lr=0.1).step()
    assert not torch.equal(backbone.language_model.layers[0].self_attn.k_proj.weight, before)
    assert Joined(groups(backbone.language_model.layers[0])[0]).whole is not None


def test_an_additive_mask_says_what_the_bool_one_says():
    seen = torch.rand(2, 1, 3, 21) > 0.3
    seen[..., 0] = True
    mask = additive(seen, torch.zeros(1))
    assert mask.stride(-2) % ALIGNED == 0 and torch.equal(mask == 0, seen) and torch.equal(mask.isinf(), ~seen)
    q, k = torch.randn(2, 4, 3, 8), torch.randn(2, 4, 21, 8)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert torch.equal(attend(q, k, k, attn_mask=mask), attend(q, k, k, attn_mask=seen))
    with torch.autocast("cpu", torch.bfloat16):
        assert additive(seen, torch.zeros(1)).dtype == torch.bfloat16
