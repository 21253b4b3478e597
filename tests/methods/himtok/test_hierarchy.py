"""The hierarchical mask loss: blurs, levels, and what is compared with what."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import convolve1d

from methods.base import UserError
from methods.himtok import hierarchy
from methods.himtok.hierarchy import HierarchyConfig, blur_matrix, blurred, draw_levels, mask_loss, sigma
from methods.himtok.mask_tokenizer import MaskTokenizer, MaskTokenizerConfig


@pytest.mark.parametrize(("level", "width"), [(1, 48), (4, 18), (16, 3.88235), (31, 1.125)])
def test_widths_of_the_paper(level, width):
    assert sigma(level, 256) == pytest.approx(width, abs=1e-5)
    assert sigma(level, 64) == pytest.approx(width / 4, abs=1e-5)


def test_more_tokens_are_less_blurred():
    widths = [sigma(level, 256) for level in range(1, 32)]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] > 0


@settings(max_examples=40, deadline=None)
@given(st.floats(0.2, 60), st.sampled_from([8, 33, 64]))
def test_a_blur_gives_away_mass_only_at_the_border(width, side):
    matrix = blur_matrix(width, side)
    rows = matrix.sum(1)
    assert (matrix >= 0).all()
    assert (rows <= 1 + 1e-6).all()
    reach = math.ceil(3 * width)
    if side > 2 * reach:
        torch.testing.assert_close(rows[reach : side - reach], torch.ones(side - 2 * reach))
    torch.testing.assert_close(matrix, matrix.T)


@pytest.mark.parametrize("level", [1, 3, 8, 20, 31])
def test_the_blur_is_a_convolution_with_a_gaussian_cut_at_three_sigma(level):
    mask = torch.zeros(64, 64)
    mask[5:40, 20:25] = 1
    mask[60:, 60:] = 1
    width = sigma(level, 64)
    reach = math.ceil(3 * width)
    taps = np.exp(-(np.arange(-reach, reach + 1.0) ** 2) / (2 * width**2))
    taps /= taps.sum()
    expected = convolve1d(convolve1d(mask.double().numpy(), taps, 0, mode="constant"), taps, 1, mode="constant")
    found = blurred(mask[None], torch.tensor([level]), 32)[0]
    assert found.numpy() == pytest.approx(expected, abs=1e-6)


def test_each_mask_is_blurred_for_its_own_level_and_the_whole_stays_sharp():
    masks = (torch.rand(4, 64, 64) > 0.5).float()
    found = blurred(masks, torch.tensor([1, 32, 5, 40]), 32)
    assert torch.equal(found[[1, 3]], masks[[1, 3]])
    torch.testing.assert_close(found[2:3], blurred(masks[2:3], torch.tensor([5]), 32))
    assert not torch.allclose(found[0], found[2])


def test_a_width_of_nothing_changes_nothing():
    assert torch.equal(blur_matrix(0.0, 16), torch.eye(16))


def test_levels_follow_their_distribution():
    torch.manual_seed(0)
    drawn = draw_levels(200_000, 32, replacement=True)
    assert drawn.min() == 1
    assert drawn.max() == 31
    weights = 1 / (np.arange(1, 32) + 8.0)
    shares = np.bincount(drawn.numpy(), minlength=32)[1:] / len(drawn)
    assert shares == pytest.approx(weights / weights.sum(), abs=0.0025)


def test_without_replacement_levels_differ():
    torch.manual_seed(0)
    assert sorted(draw_levels(31, 32).tolist()) == list(range(1, 32))


def test_mask_loss_by_hand():
    logits, target = torch.tensor([[[0.0, 2.0]]]), torch.tensor([[[0.0, 1.0]]])
    p = 1 / (1 + math.exp(-2))
    bce = (math.log(2) - math.log(p)) / 2
    dice = 1 - (2 * p + 1) / (0.5 + p + 1 + 1)
    assert float(mask_loss(logits, target, 0.25)) == pytest.approx(bce + 0.25 * dice, abs=1e-6)
    assert float(mask_loss(logits, target, 0.0)) == pytest.approx(bce, abs=1e-6)


def test_masks_count_alike_whatever_their_size():
    """Dice is taken for each mask and then averaged, so that a large mask does not drown a small one."""
    logits, target = torch.randn(2, 8, 8), (torch.rand(2, 8, 8) > 0.5).float()
    target[1] = 0
    target[1, 0, 0] = 1
    single = [mask_loss(logits[i : i + 1], target[i : i + 1], 1.0) for i in range(2)]
    torch.testing.assert_close(mask_loss(logits, target, 1.0), torch.stack(single).mean())


def test_an_empty_mask_has_a_finite_loss_and_gradient():
    logits = torch.zeros(1, 8, 8, requires_grad=True)
    mask_loss(logits, torch.zeros(1, 8, 8), 0.25).backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad > 0).all()


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    return MaskTokenizer(MaskTokenizerConfig(
        resolution=64, width=64, encoder_layers=1, decoder_layers=1, heads=4, codes=64, ffn_out=32, pixel_base=8,
        pixel_multipliers=(1, 1, 1, 1, 1), pixel_blocks=1,
    )).eval()  # fmt: skip


@torch.no_grad()
def test_partial_levels_compare_short_prefixes_with_blurred_masks(tokenizer, monkeypatch):
    probabilities, masks = torch.rand(2, 32, 64).softmax(-1), (torch.rand(2, 64, 64) > 0.7).float()
    monkeypatch.setattr(hierarchy, "draw_levels", lambda count, tokens: torch.tensor([2, 9, 30]))
    losses = hierarchy.hierarchical_loss(tokenizer, probabilities, masks, HierarchyConfig())
    whole = mask_loss(tokenizer.logits(tokenizer.mix(probabilities)), masks, 0.25)
    torch.testing.assert_close(losses["mask"], whole)
    parts = []
    for level in (2, 9, 30):
        logits = tokenizer.logits(tokenizer.mix(probabilities[:, :level]))
        parts.append(mask_loss(logits, blurred(masks, torch.full((2,), level), 32), 0.25))
    torch.testing.assert_close(losses["hierarchy"], torch.stack(parts).sum())


@torch.no_grad()
@pytest.mark.parametrize("config", [HierarchyConfig(variant="off"), HierarchyConfig(levels=0)])
def test_the_hierarchy_can_be_left_out(tokenizer, config):
    probabilities, masks = torch.rand(1, 32, 64).softmax(-1), torch.zeros(1, 64, 64)
    assert hierarchy.hierarchical_loss(tokenizer, probabilities, masks, config).keys() == {"mask"}


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_the_losses_are_the_same_under_autocast_but_for_the_tokenizers_precision(tokenizer, variant, monkeypatch):
    """On a GPU autocast even forbids one of them."""
    probabilities, masks = torch.rand(2, 32, 64).softmax(-1), (torch.rand(2, 64, 64) > 0.7).float()
    levels = torch.tensor([3])
    monkeypatch.setattr(type(tokenizer), "logits", lambda self, codes, kept=None: 4 * codes.mean((1, 2))[:, None, None]
                        .expand(-1, 64, 64).float())  # fmt: skip
    monkeypatch.setattr(type(tokenizer), "mix", lambda self, probabilities: probabilities)
    exact = hierarchy.hierarchical_loss(tokenizer, probabilities, masks, HierarchyConfig(variant), levels)
    with torch.autocast("cpu", torch.bfloat16):
        rough = hierarchy.hierarchical_loss(tokenizer, probabilities, masks, HierarchyConfig(variant), levels)
    for name in ("mask", "hierarchy"):
        torch.testing.assert_close(rough[name], exact[name])


def test_the_released_loss_can_do_without_levels_and_none_can_draw_more_than_there_are(tokenizer):
    probabilities, masks = torch.rand(1, 32, 64).softmax(-1), torch.zeros(1, 64, 64)
    assert hierarchy.hierarchical_loss(
        tokenizer, probabilities, masks, HierarchyConfig("official", levels=0)
    ).keys() == {"mask"}
    with pytest.raises(UserError, match="32 different levels of 31"):
        hierarchy.hierarchical_loss(tokenizer, probabilities, masks, HierarchyConfig(levels=32))


@pytest.mark.parametrize("wrong", [{"variant": "papers"}, {"levels": -1}, {"temperature": 0.0}])
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(UserError):
        HierarchyConfig(**wrong)
