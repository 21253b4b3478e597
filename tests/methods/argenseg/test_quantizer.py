"""The multi-scale quantiser: its resizes, its residuals, and the inputs that it gives to the language model."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from methods.argenseg.config import SCALES_256, SCALES_512
from methods.argenseg.mask_tokenizer import VQVAE, MaskTokenizerConfig
from methods.argenseg.quantizer import ResidualQuantizer, area_matrix, bicubic_matrix
from methods.base import UserError

CLOSE = dict(rtol=0, atol=1e-5)
sides = st.integers(1, 16)


def made(scales=SCALES_256, codes=256, width=8, phis=4) -> ResidualQuantizer:
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(codes, width, scales, phis)
    with torch.no_grad():
        quantizer.embedding.weight.normal_(0, 0.5)
    return quantizer


@pytest.fixture(scope="module")
def quantizer() -> ResidualQuantizer:
    return made()


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    return torch.randn(3, 8, 16, 16, generator=torch.Generator().manual_seed(1))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([4, 13, 16, 32]), sides)
def test_shrinking_is_adaptive_average_pooling(grid, side):
    side = min(side, grid)
    maps = torch.rand(2, grid, grid)
    matrix = area_matrix(grid, side)
    torch.testing.assert_close(matrix @ maps @ matrix.T, F.adaptive_avg_pool2d(maps, side), **CLOSE)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([4, 13, 16, 32]), sides)
def test_enlarging_is_bicubic(grid, side):
    side = min(side, grid)
    maps = torch.rand(1, 2, side, side)
    matrix = bicubic_matrix(side, grid)
    expected = F.interpolate(maps, (grid, grid), mode="bicubic", align_corners=False)
    torch.testing.assert_close(matrix @ maps @ matrix.T, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(matrix.sum(1), torch.ones(grid))


def test_the_enlargement_overshoots_as_it_should():
    """Bicubic with a = -3/4, as PyTorch's; Pillow's filter has another coefficient."""
    assert bicubic_matrix(2, 16)[0].tolist() == pytest.approx([1.1038, -0.1038], abs=1e-4)


@torch.no_grad()
def test_shrink_and_contribution_on_every_scale(quantizer, features):
    for k, side in enumerate(quantizer.scales):
        pooled = F.adaptive_avg_pool2d(features, side)
        cells = quantizer.shrink(features, k)
        torch.testing.assert_close(cells, pooled.flatten(2).transpose(1, 2), **CLOSE)
        h = F.interpolate(pooled, (16, 16), mode="bicubic", align_corners=False) if side < 16 else pooled
        phi = quantizer.quant_resi["qresi_ls"][(0, 0, 1, 1, 1, 2, 2, 3, 3, 3)[k]]
        torch.testing.assert_close(quantizer.contribution(cells, k), 0.5 * h + 0.5 * phi(h), rtol=0, atol=1e-4)


@torch.no_grad()
def test_nearest_is_plain_distance(quantizer):
    cells = torch.randn(2, 5, 8)
    distance = torch.cdist(cells.double(), quantizer.embedding.weight.double())
    assert torch.equal(quantizer.nearest(cells), distance.argmin(-1))
    assert torch.equal(quantizer.nearest(quantizer.embedding.weight), torch.arange(256))


@torch.no_grad()
def test_each_scale_quantises_what_the_earlier_ones_left(quantizer, features):
    ids = quantizer.encode(features)
    assert ids.shape == (3, 680)
    sums = quantizer.accumulate(quantizer.embedding(ids))
    parts = quantizer.split(ids)
    assert [part.shape[1] for part in parts] == [side * side for side in SCALES_256]
    for k, part in enumerate(parts):
        rest = features - (sums[k - 1] if k else 0)
        assert torch.equal(part, quantizer.nearest(quantizer.shrink(rest, k)))


@torch.no_grad()
def test_the_step_by_step_inputs_equal_the_teacher_forced_ones(quantizer, features):
    ids = quantizer.encode(features)
    whole = quantizer.teacher_forcing(ids)
    assert whole.shape == (3, 679, 8)
    total, start = 0.0, 0
    for k, part in enumerate(quantizer.split(ids)[:-1]):
        total = total + quantizer.contribution(quantizer.embedding(part), k)
        step = quantizer.shrink(total, k + 1)
        torch.testing.assert_close(step, whole[:, start : start + step.shape[1]], rtol=0, atol=1e-6)
        start += step.shape[1]
    assert start == 679


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 679), st.integers(0, 100))
@torch.no_grad()
def test_an_input_depends_on_earlier_scales_only(quantizer, place, seed):
    ids = torch.randint(256, (1, 680), generator=torch.Generator().manual_seed(seed))
    changed = ids.clone()
    changed[0, place] = (changed[0, place] + 1) % 256
    moved = (quantizer.teacher_forcing(ids) != quantizer.teacher_forcing(changed)).any(-1)[0]
    scale = int(np.searchsorted(np.cumsum(quantizer.lengths), place, side="right"))
    following = sum(quantizer.lengths[: scale + 1]) - 1  # slot j of the sequence is input j - 1
    assert not moved[:following].any()
    assert bool(moved[following:].any()) == (scale < 9)


@torch.no_grad()
def test_nothing_is_changed_in_place(quantizer, features):
    before = features.clone()
    ids = quantizer.encode(features)
    first = quantizer.accumulate(quantizer.embedding(ids))
    kept = [total.clone() for total in first]
    quantizer.teacher_forcing(ids)
    quantizer(features)
    assert torch.equal(features, before)
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))


def test_the_straight_way_through_and_the_loss(quantizer, features):
    features = features.clone().requires_grad_()
    total, ids, loss = quantizer(features)
    sums = quantizer.accumulate(quantizer.embedding(ids))
    torch.testing.assert_close(total, sums[-1])
    means = torch.stack([F.mse_loss(s, features) for s in sums])
    torch.testing.assert_close(loss, 1.25 * means.mean())
    weight = torch.randn_like(total)
    (grad,) = torch.autograd.grad((total * weight).sum(), features, retain_graph=True)
    assert torch.equal(grad, weight)
    (grad,) = torch.autograd.grad(loss, features, retain_graph=True)
    expected = sum(2 * 0.25 * (features - s) / s.numel() for s in sums) / 10
    torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-8)
    trained = [quantizer.embedding.weight, quantizer.quant_resi["qresi_ls"][3].weight]
    assert all(grad.abs().sum() > 0 for grad in torch.autograd.grad(loss, trained))


@torch.no_grad()
def test_more_scales_reconstruct_better():
    """With codes taken from the residuals themselves and no phi, each scale brings the sum nearer."""
    quantizer = made((1, 2, 4, 8), codes=4096)
    quantizer.phi_ratio = 0.0
    features = F.interpolate(torch.randn(1, 8, 3, 3), (8, 8), mode="bicubic")
    sums = quantizer.accumulate(quantizer.embedding(quantizer.encode(features)))
    errors = [float(F.mse_loss(total, features)) for total in sums]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("scales", [SCALES_512, (16,), (1, 2, 4)])
@torch.no_grad()
def test_other_ladders(scales):
    quantizer = made(scales)
    features = torch.randn(1, 8, scales[-1], scales[-1])
    ids = quantizer.encode(features)
    assert ids.shape == (1, sum(side * side for side in scales))
    assert quantizer.accumulate(quantizer.embedding(ids))[-1].shape == features.shape


# ---- the mask tokenizer around it --------------------------------------------------------------------------------

TINY = MaskTokenizerConfig(resolution=64, width=32, multipliers=(1, 1, 1), blocks=1, codes=128)


@pytest.fixture(scope="module")
def tokenizer() -> VQVAE:
    torch.manual_seed(0)
    return VQVAE(TINY).eval()


def masks() -> torch.Tensor:
    masks = torch.zeros(3, 1, 64, 64)
    masks[0, 0, 5:30, 10:50] = 1
    masks[1] = 1
    return masks


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="of 256 pixels, not 128"):
        VQVAE(MaskTokenizerConfig(resolution=128, width=32))
    with pytest.raises(UserError, match="0 quant_resi"):
        VQVAE(MaskTokenizerConfig(width=32, quant_resi=0))


def test_prefixes_are_whole_scales(tokenizer):
    assert tokenizer.prefixes == (1, 5, 14, 30, 55, 91, 155, 255, 424, 680)
    assert (tokenizer.resolution, tokenizer.length, tokenizer.size) == (64, 680, 128)


@torch.no_grad()
def test_masks_go_in_and_out_as_grey_images(tokenizer):
    ids = tokenizer.encode(masks())
    assert torch.equal(ids, tokenizer.encode_images(masks().expand(-1, 3, -1, -1) * 2 - 1))
    for tokens in tokenizer.prefixes:
        found = tokenizer.decode(ids[:, :tokens])
        assert found.shape == (3, 64, 64)
        assert ((found >= 0) & (found <= 1)).all()


@torch.no_grad()
def test_decoding_certain_probabilities_is_decoding_the_ids(tokenizer):
    ids = tokenizer.encode(masks())[:, :30]
    torch.testing.assert_close(tokenizer.decode_soft(F.one_hot(ids, 128).float()), tokenizer.decode(ids), **CLOSE)


@torch.no_grad()
def test_ids_do_not_depend_on_the_callers_autocast(tokenizer):
    plain = tokenizer.encode(masks())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokenizer.encode(masks()), plain)


@torch.no_grad()
def test_a_batch_encodes_like_its_rows(tokenizer):
    ids = tokenizer.encode(masks())
    assert torch.equal(ids, torch.cat([tokenizer.encode(mask[None]) for mask in masks()]))


def test_masks_are_encoded_without_tf32(tokenizer, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    seen = []
    hook = tokenizer.quant_conv.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    tokenizer.encode(masks()[:1])
    hook.remove()
    assert seen == [False] and torch.backends.cudnn.allow_tf32


def test_ids_that_do_not_exist_are_named(tokenizer):
    ids = torch.zeros(2, 30, dtype=torch.long)
    for wrong in (128, -1):
        ids[1, 2] = wrong
        with pytest.raises(UserError, match=f"no visual token {wrong}; ids run from 0 to 127"):
            tokenizer.decode(ids)
    for shape in ((4,), (2, 0), (2, 31), (1, 681)):
        with pytest.raises(UserError, match=r"a mask is one row of \[1, 5, 14"):
            tokenizer.decode(torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize(
    "wrong", [torch.zeros(2, 1, 64, 64, dtype=torch.uint8), torch.zeros(2, 1, 32, 32), torch.zeros(64, 64)]
)
def test_masks_of_another_kind_are_refused(tokenizer, wrong):
    with pytest.raises(UserError, match="must be floats in 0..1 of shape"):
        tokenizer.encode(wrong)


@pytest.mark.parametrize("half", ["autocast", "module"])
def test_neither_autocast_nor_a_modules_own_precision_changes_sums_and_inputs(tokenizer, half):
    ids = torch.randint(0, tokenizer.size, (2, tokenizer.length), generator=torch.Generator().manual_seed(3))
    quantizer = copy.deepcopy(tokenizer.quantize)
    if half == "module":  # what bfloat16 keeps of the weights, so that only the arithmetic can differ
        quantizer.bfloat16()
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.quantize.load_state_dict({name: t.float() for name, t in quantizer.state_dict().items()})
    exact_sums = tokenizer.quantize.accumulate(tokenizer.quantize.embedding(ids))
    exact_inputs = tokenizer.quantize.teacher_forcing(ids)
    with torch.autocast("cpu", torch.bfloat16, enabled=half == "autocast"):
        sums = quantizer.accumulate(quantizer.embedding(ids))
        inputs = quantizer.teacher_forcing(ids)
        stepwise = torch.cat([quantizer.shrink(total, k + 1) for k, total in enumerate(sums[:-1])], 1)
    assert inputs.dtype == stepwise.dtype == torch.float32
    if half == "autocast":
        assert torch.equal(sums[-1], exact_sums[-1])
        assert torch.equal(inputs, exact_inputs)
    assert torch.equal(stepwise, inputs)
