"""SAM as a second pass, with a tiny random SAM."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

from methods.base import Example, Prediction, Request, UserError
from methods.himtok.mask_tokenizer import MaskTokenizer, MaskTokenizerConfig
from methods.himtok.refine import Refiner, degraded, fine_tune

CODEC = MaskTokenizerConfig(
    resolution=64, patch=16, width=32, encoder_layers=1, decoder_layers=1, heads=2, codes=64, ffn_out=32, pixel_base=8,
    pixel_multipliers=(1, 1, 1, 1, 1), pixel_blocks=1,
)  # fmt: skip


def made(side: int = 64, width: int = 32) -> Refiner:
    torch.manual_seed(0)
    vision = SamVisionConfig(
        hidden_size=width, output_channels=32, num_hidden_layers=1, num_attention_heads=2, image_size=side,
        patch_size=8, window_size=2, mlp_dim=32, global_attn_indexes=[0], num_pos_feats=16,
    )  # fmt: skip
    prompt = SamPromptEncoderConfig(
        hidden_size=32, image_size=side, patch_size=8, mask_input_channels=16, image_embedding_size=side // 8
    )
    decoder = SamMaskDecoderConfig(
        hidden_size=32, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
    )
    sam = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder))
    with torch.no_grad():  # transformers' start values are so small that no input would matter
        for parameter in sam.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
    return Refiner(sam).eval()


@pytest.fixture
def refiner() -> Refiner:
    return made()


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
def test_any_size_of_sam_gives_a_mask_of_its_own_grid(side, width):
    refiner = made(side, width)
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
def test_fine_tuning_lowers_the_loss_and_is_a_function_of_its_seed(tokenizer):
    first, second = (fine_tune(made(), tokenizer, squares(), steps=60, batch=4, lr=3e-3) for _ in range(2))
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
    with pytest.raises(UserError, match="config.json is missing"):
        Refiner.from_pretrained(tmp_path)
    refiner.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UserError, match="no usable SAM"):
        Refiner.from_pretrained(tmp_path)


def test_a_method_with_a_refiner_sharpens_every_mask(refiner, build, writing, tmp_path):
    himtok = writing(build("himtok"))
    himtok.mask_tokenizer.pixel_decoder.conv_out.bias.data.fill_(1.0)  # a mask that is not empty
    refiner.save_pretrained(tmp_path / "sam")
    names = himtok.state_dict().keys()
    requests = [Request(example.image, ("it",)) for example in squares(3)]
    coarse = himtok.segment(requests)
    assert all(prediction.mask.any() for prediction in coarse)
    himtok.use_refiner(tmp_path / "sam")
    fine = himtok.segment(requests)
    expected = [refiner.refine(r.image, [p])[0].mask for r, p in zip(requests, copy.deepcopy(coarse), strict=True)]
    for before, after, mask in zip(coarse, fine, expected, strict=True):
        assert after.token_ids == before.token_ids
        assert np.array_equal(after.mask, mask)
        assert not np.array_equal(after.mask, before.mask)
        assert after.seconds["refine"] > 0 and "refine" not in before.seconds
    assert himtok.state_dict().keys() == names
    himtok.use_refiner(None)
    assert "refine" not in himtok.segment(requests[:1])[0].seconds
