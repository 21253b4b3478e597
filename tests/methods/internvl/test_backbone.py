"""The backbone's entry points and its named sizes."""

import pytest
import torch

from methods.base import UserError
from methods.internvl.backbone import Backbone
from methods.internvl.config import SIZES, named_size, transformers_config

TINY = named_size("tiny")

# parameters of the official models, counted on the original code
OFFICIAL = {"1b": 0.9382e9, "2b": 2.2058e9, "4b": 3.7126e9, "8b": 8.0754e9, "26b": 25.514e9, "38b": 38.388e9,
            "78b": 78.408e9}  # fmt: skip
VOCABULARY = {"qwen2": 151674, "internlm2": 92553}


def test_an_unknown_size_is_refused():
    with pytest.raises(UserError, match="'3b'.*nano"):
        named_size("3b")


@pytest.mark.parametrize("name", ["1b", "2b", "26b"])
def test_official_sizes_have_the_official_number_of_parameters(name):
    size = named_size(name)
    with torch.device("meta"):
        backbone = Backbone(size, VOCABULARY[size.text_family], 7)
    count = sum(parameter.numel() for parameter in backbone.parameters())
    assert count == pytest.approx(OFFICIAL[name], rel=1e-4)
    assert backbone.native.lm_head.weight is not backbone.language_model.embed_tokens.weight


def test_all_sizes_are_known_and_have_whole_heads():
    assert OFFICIAL.keys() < SIZES.keys()
    for size in SIZES.values():
        assert size.text_width % size.text_heads == size.vision_width % size.vision_heads == 0
        assert size.text_heads % size.text_kv_heads == 0
        config = transformers_config(size, 100, 7)
        assert not config.tie_word_embeddings
        assert config.text_config.vocab_size == 100


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return Backbone(TINY, 50, 7)


def test_new_vocabulary_rows_start_at_the_mean_of_the_old(backbone):
    table = backbone.language_model.embed_tokens.weight.detach().clone()
    head = backbone.native.lm_head.weight.detach().clone()
    backbone.resize_vocabulary(60, seed=3)
    new_table, new_head = backbone.language_model.embed_tokens.weight, backbone.native.lm_head.weight
    assert backbone.vocabulary == len(new_table) == 60
    assert torch.equal(new_table[:50], table)
    assert torch.equal(new_head[:50], head)
    torch.testing.assert_close(new_head[50:], head.mean(0).expand(10, -1))
    noise = (new_table[50:] - table.mean(0)).detach()
    assert float(noise.std()) == pytest.approx(0.02, rel=0.15)
    assert len(noise.unique(dim=0)) == 10


def test_resizing_is_repeatable_and_never_shrinks(backbone):
    backbone.resize_vocabulary(60, seed=3)
    torch.manual_seed(0)
    other = Backbone(TINY, 50, 7)
    other.resize_vocabulary(60, seed=3)
    assert torch.equal(backbone.language_model.embed_tokens.weight, other.language_model.embed_tokens.weight)
    backbone.resize_vocabulary(40)
    assert backbone.vocabulary == 60


def test_a_slice_of_the_head_costs_and_gives_only_its_rows(backbone):
    hidden = torch.randn(2, 3, 64)
    torch.testing.assert_close(backbone.head(hidden, 10, 20), backbone.head(hidden)[..., 10:20])
    torch.testing.assert_close(backbone.head(hidden), backbone.native.lm_head(hidden))


def test_the_native_forward_gives_the_same_logits(backbone):
    """Patches, projector, placement and the language model are those of the native class."""
    pixels = torch.randn(2, 3, 224, 224)
    ids = torch.tensor([[1, *[7] * 64, 2, 3], [4, *[7] * 64, 5, 6]])
    backbone.initialise_from_scratch(1)
    backbone.eval()
    with torch.no_grad():
        native = backbone.native(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits
        tokens = backbone.project(backbone.patches(pixels))
        placed = backbone.place_images(backbone.embed(ids), ids, tokens.flatten(0, 1))
        torch.testing.assert_close(backbone.head(backbone.run(placed)), native, rtol=0, atol=1e-5)
    assert tokens.shape == (2, TINY.tokens_per_tile, 64)


def test_start_values_leave_nothing_at_zero_and_follow_the_seed(backbone):
    backbone.initialise_from_scratch(1)
    tower = backbone.vision_tower.embeddings
    assert tower.position_embeddings.std() > 0.01
    assert tower.cls_token.std() > 0.005
    before = [parameter.detach().clone() for parameter in backbone.parameters()]
    backbone.initialise_from_scratch(1)
    assert all(torch.equal(a, b) for a, b in zip(before, backbone.parameters(), strict=True))
    backbone.initialise_from_scratch(2)
    assert not torch.equal(before[0], next(backbone.parameters()))


def test_rows_behind_the_known_ones_begin_anew(backbone):
    """A released table may have more rows than its tokenizer has words."""
    padded = backbone.vocabulary
    with torch.no_grad():
        backbone.native.lm_head.weight[padded - 4 :] = 7.0
    backbone.resize_vocabulary(padded + 3, seed=3, known=padded - 4)
    head = backbone.native.lm_head.weight
    assert len(head) == padded + 3
    torch.testing.assert_close(head[padded - 4 :], head[: padded - 4].mean(0).expand(7, -1))
