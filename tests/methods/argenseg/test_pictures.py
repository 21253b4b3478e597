"""Training the picture tokenizer: when codes are placed, and where."""

import pytest
import torch

from methods.argenseg.pictures import CodebookKeeper, residual_cells, tokenizer_loss
from methods.argenseg.tokenizer import VQVAE, CodecConfig


@pytest.fixture
def codec():
    torch.manual_seed(0)
    return VQVAE(CodecConfig(resolution=8, width=32, multipliers=(1, 1), blocks=1, codes=16, scales=(1, 2, 4)))


@pytest.fixture
def pictures():
    torch.manual_seed(1)
    pictures = torch.rand(4, 3, 8, 8) * 2 - 1
    pictures[:2] = (pictures[:2].mean(1, keepdim=True) > 0).float() * 2 - 1
    return pictures


def test_the_first_steps_are_unquantised(codec, pictures):
    keeper = CodebookKeeper(codec, warmup=2, every=2)
    features = codec.features(pictures)
    assert [keeper.before(codec, features) for _ in range(5)] == [False] * 2 + [True] * 3


@torch.no_grad()
def test_codes_are_placed_where_the_quantiser_needed_them(codec, pictures):
    keeper = CodebookKeeper(codec, warmup=0)
    features = 5 * codec.features(pictures)
    codec.quantize.embedding.weight.zero_()
    met = residual_cells(codec.quantize, features)
    keeper.before(codec, features)
    distance = torch.cdist(codec.quantize.embedding.weight, met).amin(1)
    assert (distance < 0.2 * met.std()).all()


@torch.no_grad()
def test_only_codes_that_nothing_chose_are_moved(codec, pictures):
    keeper = CodebookKeeper(codec, warmup=0, every=2)
    features = codec.features(pictures)
    keeper.before(codec, features)
    keeper.after(torch.tensor([[1, 4, 4]]))
    before = codec.quantize.embedding.weight.clone()
    keeper.before(codec, features)
    assert torch.equal(codec.quantize.embedding.weight, before)
    keeper.before(codec, features)
    moved = (codec.quantize.embedding.weight != before).any(1)
    assert (~moved).nonzero().flatten().tolist() == [1, 4]


@torch.no_grad()
def test_residuals_are_those_that_encoding_meets(codec, pictures):
    features = codec.features(pictures)
    cells = residual_cells(codec.quantize, features)
    assert cells.shape == (4 * (1 + 4 + 16), 32)
    first = features.mean((2, 3))
    assert all((cells - row).abs().amax(1).min() < 1e-5 for row in first)


def test_all_parts_learn_after_the_warm_up(codec, pictures):
    losses = tokenizer_loss(codec, CodebookKeeper(codec, warmup=0), pictures, masks=2)
    assert {"l1", "l2", "quantizer"} <= losses.keys()
    sum(value for name, value in losses.items() if not name.startswith("_")).backward()
    parts = (codec.encoder.conv_in, codec.decoder.conv_out, codec.quantize.embedding, codec.post_quant_conv)
    assert all(part.weight.grad.abs().sum() > 0 for part in parts)


def test_the_warm_up_is_a_plain_autoencoder(codec, pictures):
    losses = tokenizer_loss(codec, CodebookKeeper(codec, warmup=9), pictures, masks=2)
    assert losses["quantizer"] == 0
    drawn = codec.draw(codec.features(pictures))
    torch.testing.assert_close(losses["l1"], (drawn - pictures).abs().mean())
    torch.testing.assert_close(losses["l2"], ((drawn - pictures) ** 2).mean())


def test_the_watched_overlap_is_that_of_the_masks_alone(codec, pictures, monkeypatch):
    monkeypatch.setattr(codec, "draw", lambda features: torch.where(pictures > 0, 0.9, -0.9) + 0 * features.sum())
    losses = tokenizer_loss(codec, CodebookKeeper(codec, warmup=9), pictures, masks=2)
    assert losses["_iou"] == 1
