"""SAM as a second pass, with a tiny random SAM."""

import numpy as np
import pytest
import torch
from PIL import Image

from methods.base import Example, Prediction, UserError
from methods.common.masks import nearest_mask
from methods.himtok.mask_tokenizer import MaskTokenizer, MaskTokenizerConfig
from methods.himtok.refine import Refiner, degraded, fine_tune
from methods.internvl.sam import Sam

CODEC = MaskTokenizerConfig(
    resolution=64, patch=16, width=32, encoder_layers=1, decoder_layers=1, heads=2, codes=64, ffn_out=32, pixel_base=8,
    pixel_multipliers=(1, 1, 1, 1, 1), pixel_blocks=1,
)  # fmt: skip


@pytest.fixture
def refiner(random_sam) -> Refiner:
    return Refiner(Sam(random_sam(), None)).eval()


@pytest.fixture(scope="module")
def tokenizer() -> MaskTokenizer:
    torch.manual_seed(0)
    return MaskTokenizer(CODEC).eval()


def squares(count: int = 4) -> list[Example]:
    """A bright square on a dark ground, a different one on each image."""
    examples = []
    for i in range(count):
        pixels, mask = np.full((48, 64, 3), 40, np.uint8), np.zeros((48, 64), bool)
        mask[8 + 4 * i : 30, 6 + 3 * i : 50] = True
        pixels[mask] = (240, 200, 60)
        examples.append(Example(Image.fromarray(pixels), ("it",), mask, dataset="squares", ref_id=i))
    return examples


@pytest.mark.parametrize(("side", "width"), [(64, 32), (96, 16)])
@torch.no_grad()
def test_any_size_of_sam_gives_a_mask_of_its_own_grid(random_sam, side, width):
    refiner = Refiner(Sam(random_sam(side, width), None)).eval()
    pixels = refiner.pixels([example.image for example in squares(2)])
    assert pixels.shape == (2, 3, side, side)
    assert refiner(pixels, torch.rand(2, 64, 64)).shape == (2, side // 2, side // 2)


@torch.no_grad()
def test_image_and_coarse_mask_both_count(refiner):
    one, two = (refiner.pixels([example.image]) for example in squares(2))
    first, second = torch.zeros(2, 1, 64, 64)
    second[:, :30] = 1
    found = refiner(one, first)
    assert (refiner(two, first) - found).abs().max() > 1e-5
    assert (refiner(one, second) - found).abs().max() > 1e-5
    together = refiner(torch.cat([one, two]), torch.cat([first, second]))
    torch.testing.assert_close(together[:1], found, rtol=0, atol=1e-5)
    torch.testing.assert_close(together[1:], refiner(two, second), rtol=0, atol=1e-5)


def test_predictions_are_refined_in_place_and_empty_ones_are_not(refiner):
    soft = np.zeros((64, 64), np.float32)
    soft[:40] = 0.9
    empty = np.zeros((48, 64), bool)
    predictions = [
        Prediction(empty.copy(), soft, box=(1.0, 2.0, 3.0, 4.0)),
        Prediction(empty.copy(), np.zeros_like(soft)),
        Prediction(empty.copy(), None, failure="no mask in the answer"),
    ]
    image = squares(1)[0].image
    with torch.no_grad():
        grid = refiner(refiner.pixels([image]), torch.from_numpy(soft)[None]).sigmoid()
    found = refiner.refine(image, predictions)
    assert found[0].mask.shape == (48, 64)
    enlarged = torch.nn.functional.interpolate(grid[None], (48, 64), mode="bilinear")[0, 0] > 0.5
    assert np.mean(found[0].mask != enlarged.numpy()) < 0.01
    assert 0 < found[0].mask.mean() < 1
    assert found[0].box == (1.0, 2.0, 3.0, 4.0)
    assert not found[1].mask.any() and not found[2].mask.any()
    assert found[2].failure == "no mask in the answer"


def test_only_mask_decoder_and_mask_prompt_are_trained(refiner, tokenizer):
    before = {name: tensor.clone() for name, tensor in refiner.state_dict().items()}
    fine_tune(refiner, tokenizer, squares(), steps=2, batch=2, lr=1e-2)
    moved = {n.split(".")[1] for n, t in refiner.state_dict().items() if not torch.equal(t, before[n])}
    assert moved == {"mask_decoder", "prompt_encoder"}
    changed = [n for n, t in refiner.state_dict().items() if not torch.equal(t, before[n]) and "prompt_encoder" in n]
    assert changed and all("mask_embed" in name for name in changed)
    assert not refiner.training


@pytest.mark.slow
def test_fine_tuning_lowers_the_loss_and_is_a_function_of_its_seed(random_sam, tokenizer):
    first, second = (
        fine_tune(Refiner(Sam(random_sam(), None)), tokenizer, squares(), steps=60, batch=4, lr=3e-3) for _ in range(2)
    )
    assert np.mean(first[-5:]) < 0.7 * np.mean(first[:3])
    assert first == second


def test_degraded_masks_are_prefixes_grown_or_shrunk(tokenizer, monkeypatch):
    """Seven of ten have another size than what the mask tokenizer gives for their prefix."""
    square, lengths = torch.zeros(1, 64, 64), []
    square[0, 10:50, 10:50] = 0.8
    monkeypatch.setattr(tokenizer, "decode", lambda ids: lengths.append(ids.shape[1]) or square)
    found = degraded(tokenizer, torch.zeros(200, 1, 64, 64), np.random.default_rng(0))
    assert found.shape == (200, 64, 64)
    sides = ((found > 0.5).sum((1, 2)) ** 0.5).tolist()
    assert set(sides) == {34, 36, 38, 40, 42, 44, 46}
    assert 40 < sides.count(40) < 80
    assert set(lengths) == set(range(1, 33))
    assert torch.equal(found, degraded(tokenizer, torch.zeros(200, 1, 64, 64), np.random.default_rng(0)))


def test_a_mask_that_would_vanish_is_left_as_it_is(tokenizer, monkeypatch):
    dot = torch.zeros(1, 64, 64)
    dot[0, 30:33, 30:33] = 1
    monkeypatch.setattr(tokenizer, "decode", lambda ids: dot)
    areas = degraded(tokenizer, torch.zeros(100, 1, 64, 64), np.random.default_rng(1)).sum((1, 2))
    assert set(areas.tolist()) == {9.0, 25.0, 49.0, 81.0}  # nine pixels are never eroded, but may be dilated


def test_a_saved_refiner_is_the_same(refiner, tmp_path):
    refiner.save_pretrained(tmp_path)
    loaded = Refiner.from_pretrained(tmp_path)
    pixels, coarse = refiner.pixels([squares(1)[0].image]), torch.rand(1, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(pixels, coarse), refiner(pixels, coarse))


def test_a_folder_that_holds_no_sam_is_named(refiner, tmp_path):
    with pytest.raises(UserError, match="no SAM is there"):
        Refiner.from_pretrained(tmp_path)
    refiner.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UserError, match="no usable SAM"):
        Refiner.from_pretrained(tmp_path)


def test_official_evaluation_refines_empty_masks_too_and_resizes_to_the_nearest(refiner):
    image, empty = squares(1)[0].image, np.zeros((48, 64), bool)
    soft = np.full((64, 64), 0.1, np.float32)
    predictions = [Prediction(empty.copy(), soft), Prediction(empty.copy(), None, failure="no mask in the answer")]
    found = refiner.refine(image, predictions, "official", empty=True)
    with torch.no_grad():
        both = torch.from_numpy(np.stack([soft, np.zeros_like(soft)]))
        grids = refiner(refiner.pixels([image]), both).sigmoid()
    for prediction, grid in zip(found, grids, strict=True):
        assert np.array_equal(prediction.mask, nearest_mask(grid, (48, 64)))
    assert found[1].failure == "no mask in the answer"
    assert found[0].seconds["refine"] == found[1].seconds["refine"] > 0
