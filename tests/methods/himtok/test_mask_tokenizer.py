"""The mask tokenizer's properties: causal tokens, prefixes, gradients."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.base import UserError
from methods.himtok.config import MaskTokenizerConfig
from methods.himtok.mask_tokenizer import MaskTokenizer, anchor_positions
from methods.himtok.pixel_decoder import PixelDecoder, SubpixelDecoder

TINY = MaskTokenizerConfig(
    resolution=64, patch=16, width=64, encoder_layers=2, decoder_layers=1, heads=4, codes=64, ffn_out=32, pixel_base=8,
    pixel_multipliers=(1, 1, 1, 1, 1), pixel_blocks=1,
)  # fmt: skip
ROUND = dict(rtol=0, atol=1e-5)


def made(**changes) -> MaskTokenizer:
    torch.manual_seed(0)
    return MaskTokenizer(replace(TINY, **changes)).eval()


@pytest.fixture(scope="module")
def tokenizer() -> MaskTokenizer:
    return made()


@pytest.fixture(scope="module")
def masks() -> torch.Tensor:
    masks = torch.zeros(3, 1, 64, 64)
    masks[0, 0, 10:30, 20:50] = 1
    masks[1] = 1
    return masks


@torch.no_grad()
@pytest.mark.parametrize("layout", ["clean", "official"])
@pytest.mark.parametrize("changed", [0, 1, 15, 30, 31])
def test_which_tokens_a_latent_reaches(masks, layout, changed):
    """Clean: latent k reaches tokens k and later only. Released: the reinterpreted memory mixes it into all."""
    tokenizer = made(encoder_layout=layout)
    before = tokenizer.latents(masks)
    tokenizer.latent_tokens[changed] += torch.randn(64)  # no constant, which the LayerNorm would take away
    moved = (tokenizer.latents(masks) - before).abs().amax((0, 2)) > 1e-6
    expected = torch.arange(32) >= changed if layout == "clean" else torch.ones(32, dtype=torch.bool)
    assert torch.equal(moved, expected)


@torch.no_grad()
@pytest.mark.parametrize("layout", ["clean", "official"])
@pytest.mark.parametrize("changed", [1, 8, 16, 31])
def test_a_latent_changes_no_earlier_token_in_the_clean_layout(layout, changed):
    """The ids themselves: coarse to fine by construction in one layout, by training alone in the other."""
    tokenizer = made(encoder_layout=layout)
    masks = (torch.rand(24, 1, 64, 64, generator=torch.Generator().manual_seed(0)) > 0.7).float()
    before = tokenizer.encode(masks)
    tokenizer.latent_tokens[changed] = 5 * torch.randn(64, generator=torch.Generator().manual_seed(1))
    moved = (tokenizer.encode(masks) != before).any(0)
    assert moved[changed:].any()
    assert moved[:changed].any() == (layout == "official")


@torch.no_grad()
def test_the_image_reaches_every_token(tokenizer, masks):
    other = masks.clone()
    other[..., :2, :2] = 1 - other[..., :2, :2]
    assert ((tokenizer.latents(other) - tokenizer.latents(masks)).abs().amax((0, 2)) > 1e-6).all()


@torch.no_grad()
def test_ids_are_the_nearest_codes_on_the_sphere(tokenizer):
    z = torch.randn(4, 32, 12)
    table = torch.nn.functional.normalize(tokenizer.quantize.table(), dim=-1)
    cosine = torch.nn.functional.normalize(z, dim=-1) @ table.T
    assert torch.equal(tokenizer.quantize.ids(z), cosine.argmax(-1))
    assert torch.equal(tokenizer.quantize.ids(7 * z), tokenizer.quantize.ids(z))


def test_gradients_pass_the_quantiser_straight(tokenizer):
    z = torch.randn(2, 32, 12, requires_grad=True)
    vectors, _, loss = tokenizer.quantize(z)
    target = torch.randn_like(vectors)
    (grad,) = torch.autograd.grad((vectors * target).sum(), z, retain_graph=True)
    (expected,) = torch.autograd.grad((torch.nn.functional.normalize(z, dim=-1) * target).sum(), z, retain_graph=True)
    torch.testing.assert_close(grad, expected)
    for parameter in tokenizer.quantize.parameters():
        (grad,) = torch.autograd.grad(loss, parameter, retain_graph=True)
        assert grad.abs().sum() > 0


@torch.no_grad()
@pytest.mark.parametrize("tokens", range(1, 33))
def test_every_prefix_decodes_to_a_mask(tokenizer, masks, tokens):
    found = tokenizer.decode(tokenizer.encode(masks)[:, :tokens])
    assert found.shape == (3, 64, 64)
    assert ((found >= 0) & (found <= 1)).all()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 32), min_size=3, max_size=3), st.integers(0, 1000))
@torch.no_grad()
def test_keeping_some_tokens_is_writing_only_them(tokenizer, kept, seed):
    probabilities = torch.rand(3, 32, 64, generator=torch.Generator().manual_seed(seed)).softmax(-1)
    found = tokenizer.decode_soft(probabilities, torch.tensor(kept))
    for row, count in enumerate(kept):
        short = tokenizer.decode_soft(probabilities[row : row + 1, :count])
        torch.testing.assert_close(found[row : row + 1], short, **ROUND)


@torch.no_grad()
def test_tokens_and_their_places_matter(tokenizer, masks):
    ids = tokenizer.encode(masks[:1])
    ids[0, :2] = torch.tensor([3, 9])
    swapped = ids.clone()
    swapped[0, :2] = torch.tensor([9, 3])
    assert (tokenizer.decode(ids) - tokenizer.decode(swapped)).abs().max() > 1e-4
    assert (tokenizer.decode(ids[:, :31]) - tokenizer.decode(ids)).abs().max() > 1e-5


@torch.no_grad()
@pytest.mark.parametrize("space", ["normalised", "official"])
def test_certain_probabilities_are_the_codes_themselves(space, masks):
    tokenizer = made(code_space=space)
    ids = tokenizer.encode(masks)
    mixed = tokenizer.mix(torch.nn.functional.one_hot(ids, 64).float())
    table = tokenizer.quantize.table()
    expected = torch.nn.functional.normalize(table, dim=-1) if space == "normalised" else table
    torch.testing.assert_close(mixed, expected[ids], **ROUND)


@torch.no_grad()
def test_ids_do_not_depend_on_the_callers_autocast(tokenizer, masks):
    plain = tokenizer.encode(masks)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokenizer.encode(masks), plain)
        assert torch.equal(tokenizer.encode(masks.bfloat16()), plain)


def test_masks_are_encoded_without_tf32(tokenizer, masks, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    seen = []
    convolutions = [module for module in tokenizer.encoder.modules() if isinstance(module, torch.nn.Conv2d)]
    hooks = [c.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32)) for c in convolutions]
    tokenizer.encode(masks)
    for hook in hooks:
        hook.remove()
    assert seen == [False] * len(convolutions) and seen and torch.backends.cudnn.allow_tf32


@torch.no_grad()
def test_attention_in_bfloat16_is_that_in_float32_but_for_rounding(tokenizer, masks):
    plain = tokenizer.latents(masks)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = tokenizer.latents(masks)
    assert not torch.equal(plain, rounded.float())
    assert (plain - rounded.float()).norm() < 0.05 * plain.norm()


def test_a_batch_encodes_and_decodes_like_its_rows(tokenizer, masks):
    ids = tokenizer.encode(masks)
    assert torch.equal(ids, torch.cat([tokenizer.encode(mask[None]) for mask in masks]))
    alone = torch.cat([tokenizer.decode(row[None]) for row in ids])
    torch.testing.assert_close(tokenizer.decode(ids), alone, **ROUND)


def test_prefixes_end_with_the_whole(tokenizer):
    assert tokenizer.prefixes == (1, 2, 4, 8, 16, 24, 32)
    assert made(latents=4).prefixes == (1, 2, 4)
    assert (tokenizer.resolution, tokenizer.length, tokenizer.size) == (64, 32, 64)


def test_logits_are_five_times_the_mean_channel_above_one_half(tokenizer, masks):
    codes = tokenizer.mix(torch.rand(2, 32, 64).softmax(-1))
    pixels = tokenizer.pixel_decoder(tokenizer.decoder(codes))
    torch.testing.assert_close(tokenizer.logits(codes), 5 * (pixels.mean(1) - 0.5))


@pytest.mark.parametrize(("multipliers", "factor"), [((1,), 1), ((1, 2), 2), ((1, 1, 2, 2, 4), 16)])
def test_the_pixel_decoder_doubles_on_every_level_but_the_last(multipliers, factor):
    decoder = PixelDecoder(6, 32, multipliers, 2, 1)
    assert decoder(torch.randn(2, 6, 3, 3)).shape == (2, 3, 3 * factor, 3 * factor)


def test_ids_that_do_not_exist_are_named(tokenizer):
    ids = torch.zeros(2, 4, dtype=torch.long)
    for wrong in (64, -1, 1000):
        ids[1, 2] = wrong
        with pytest.raises(UserError, match=f"no mask token {wrong}; ids run from 0 to 63"):
            tokenizer.decode(ids)
    for shape in ((4,), (2, 0), (1, 33)):
        with pytest.raises(UserError, match="a mask is one row of 1 to 32 tokens"):
            tokenizer.decode(torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize(
    "wrong", [torch.zeros(2, 1, 64, 64, dtype=torch.uint8), torch.zeros(2, 1, 32, 32), torch.zeros(64, 64)]
)
def test_masks_of_another_kind_are_refused(tokenizer, wrong):
    with pytest.raises(UserError, match="must be floats in 0..1 of shape"):
        tokenizer.encode(wrong)


OURS = {"stem": "convolutional", "pixel_decoder": "subpixel", "start": "anchored", "patch": 8, "pixel_base": 8}


def test_our_layout_has_the_official_ones_shapes_and_causality(masks):
    tokenizer = made(**OURS)
    tokenizer.initialise_from_scratch()
    ids = tokenizer.encode(masks)
    assert ids.shape == (3, 32) and tokenizer.decode(ids[:, :5]).shape == (3, 64, 64)
    z = tokenizer.latents(masks)
    z[0, 7].sum().backward()
    assert tokenizer.encoder.patch_embed.layers[0].weight.grad.abs().sum() > 0
    changed = tokenizer.latents(torch.cat([masks[1:2], masks[1:]]))
    torch.testing.assert_close(changed[1:], z[1:], **ROUND)


def test_our_pixel_decoder_reaches_every_pixel_size():
    for patch in (4, 8, 16):
        x = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(0))
        decoder = SubpixelDecoder(16, 8, patch, 1)
        assert decoder(x).shape == (2, 1, 4 * patch, 4 * patch)
        assert all(p.grad is not None for p in decoder.parameters() if decoder(x).mean().backward() is None)


def test_anchored_latents_begin_coarse_to_fine_and_with_equal_queries_and_keys():
    plain, ours = (
        made(patch=8, pixel_multipliers=(1, 1, 1, 1)),
        made(patch=8, pixel_multipliers=(1, 1, 1, 1), start="anchored"),
    )
    for tokenizer in (plain, ours):
        torch.manual_seed(1)
        tokenizer.initialise_from_scratch()
    moved = (ours.encoder.latent_token_positional_embedding - plain.encoder.latent_token_positional_embedding).detach()
    assert not moved[:3].any() and (moved[3:].abs().sum(1) > 0).all()
    assert len(moved[3:].round(decimals=4).unique(dim=0)) == 29
    query, key, _ = ours.encoder.transformer[0].attn.in_proj_weight.chunk(3)
    assert torch.equal(query, key)


@pytest.mark.parametrize(("latents", "free"), [(32, 3), (8, 4), (3, 3), (64, 10)])
def test_anchors_for_other_numbers_of_latents(latents, free):
    places = anchor_positions(latents, 16, 8)
    assert places.shape == (latents, 16) and not places[:free].any() and places[free:].abs().sum(1).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stem": "patches"}, "no stem 'patches'; choose linear or convolutional"),
        ({"pixel_decoder": "plain"}, "no pixel_decoder 'plain'"),
        ({"pixel_decoder": "subpixel", "resolution": 72, "patch": 12}, "cannot be reached by halving"),
    ],
)
def test_layouts_that_cannot_be_are_named(changes, words):
    with pytest.raises(UserError, match=words):
        replace(TINY, **changes)
