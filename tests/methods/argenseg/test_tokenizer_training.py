"""Training the image tokenizer: when codes are placed, and where."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from methods.argenseg.config import RestartConfig
from methods.argenseg.mask_tokenizer import VQVAE, MaskTokenizerConfig
from methods.argenseg.tokenizer_training import (
    CellRestart,
    ImageProcessor,
    TrainingHeads,
    image_batch,
    residual_cells,
    tokenizer_loss,
)
from methods.base import TrainingSample, UserError


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    return VQVAE(MaskTokenizerConfig(resolution=8, width=32, multipliers=(1, 1), blocks=1, codes=16, scales=(1, 2, 4)))


@pytest.fixture
def images():
    torch.manual_seed(1)
    images = torch.rand(4, 3, 8, 8) * 2 - 1
    images[:2] = (images[:2].mean(1, keepdim=True) > 0).float() * 2 - 1
    return images


def test_the_first_steps_are_unquantised(tokenizer, images):
    restart = CellRestart(tokenizer.size, warmup=2, every=2)
    features = tokenizer.features(images)
    assert [restart.before(tokenizer, features) for _ in range(5)] == [False] * 2 + [True] * 3


@torch.no_grad()
def test_codes_are_placed_where_the_quantiser_needed_them(tokenizer, images):
    restart = CellRestart(tokenizer.size, warmup=0)
    features = 5 * tokenizer.features(images)
    tokenizer.quantize.embedding.weight.zero_()
    met = residual_cells(tokenizer.quantize, features)
    restart.before(tokenizer, features)
    distance = torch.cdist(tokenizer.quantize.embedding.weight, met).amin(1)
    assert (distance < 0.2 * met.std()).all()


@torch.no_grad()
def test_only_codes_that_nothing_chose_are_moved(tokenizer, images):
    restart = CellRestart(tokenizer.size, warmup=0, every=2)
    features = tokenizer.features(images)
    restart.before(tokenizer, features)
    restart.after(torch.tensor([[1, 4, 4]]))
    before = tokenizer.quantize.embedding.weight.clone()
    restart.before(tokenizer, features)
    assert torch.equal(tokenizer.quantize.embedding.weight, before)
    restart.before(tokenizer, features)
    moved = (tokenizer.quantize.embedding.weight != before).any(1)
    assert (~moved).nonzero().flatten().tolist() == [1, 4]


@torch.no_grad()
def test_trained_codes_stay_where_they_are(tokenizer, images):
    restart = CellRestart(tokenizer.size, warmup=0, every=2, placed=True)
    before = tokenizer.quantize.embedding.weight.clone()
    assert restart.before(tokenizer, tokenizer.features(images))
    assert torch.equal(tokenizer.quantize.embedding.weight, before)
    restart.after(torch.tensor([[3]]))
    for _ in range(2):
        restart.before(tokenizer, tokenizer.features(images))
    moved = (tokenizer.quantize.embedding.weight != before).any(1)
    assert (~moved).nonzero().flatten().tolist() == [3]


@torch.no_grad()
def test_residuals_are_those_that_encoding_meets(tokenizer, images):
    features = tokenizer.features(images)
    cells = residual_cells(tokenizer.quantize, features)
    assert cells.shape == (4 * (1 + 4 + 16), 32)
    first = features.mean((2, 3))
    assert all((cells - row).abs().amax(1).min() < 1e-5 for row in first)


def test_all_parts_learn_after_the_warm_up(tokenizer, images):
    losses = tokenizer_loss(tokenizer, TrainingHeads(tokenizer, RestartConfig(0)), images, masks=2)
    assert {"l1", "l2", "quantizer"} <= losses.keys()
    sum(value for name, value in losses.items() if not name.startswith("_")).backward()
    parts = (
        tokenizer.encoder.conv_in,
        tokenizer.decoder.conv_out,
        tokenizer.quantize.embedding,
        tokenizer.post_quant_conv,
    )
    assert all(part.weight.grad.abs().sum() > 0 for part in parts)


def test_the_warm_up_is_a_plain_autoencoder(tokenizer, images):
    losses = tokenizer_loss(tokenizer, TrainingHeads(tokenizer, RestartConfig(9)), images, masks=2)
    assert losses["quantizer"] == 0
    drawn = tokenizer.decode_features(tokenizer.features(images))
    torch.testing.assert_close(losses["l1"], (drawn - images).abs().mean())
    torch.testing.assert_close(losses["l2"], ((drawn - images) ** 2).mean())


@torch.no_grad()
def test_usage_is_counted_per_scale(tokenizer):
    """By hand: the first batch is copied, later ones come in at one hundredth, whole scales at a time."""
    quantizer = tokenizer.quantize
    first, second = torch.zeros(2, 21, dtype=torch.long), torch.zeros(2, 21, dtype=torch.long)
    first[:, 1:5] = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    second[:, 0] = 9
    used = quantizer.count(first)
    torch.testing.assert_close(used, torch.tensor([1 / 16, 8 / 16, 1 / 16]))
    assert quantizer.ema_vocab_hit_SV[0, 0] == 2
    assert quantizer.ema_vocab_hit_SV[2, 0] == 32
    used = quantizer.count(second)
    torch.testing.assert_close(quantizer.ema_vocab_hit_SV[0, [0, 9]], torch.tensor([1.98, 0.02]))
    assert used[0] == 2 / 16
    assert quantizer.ema_vocab_hit_SV.sum(1).tolist() == pytest.approx([2, 8, 32])
    for _ in range(800):
        used = quantizer.count(second)
    assert used[0] == 1 / 16  # code 0 has gone out of use


def test_usage_is_logged_per_scale_and_saved(tokenizer, images):
    losses = tokenizer_loss(tokenizer, TrainingHeads(tokenizer, RestartConfig(0)), images, masks=2)
    assert {"_codes_used_1", "_codes_used_2", "_codes_used_4"} <= losses.keys()
    assert tokenizer.state_dict()["quantize.ema_vocab_hit_SV"].sum(1).tolist() == [4, 16, 64]


def test_the_watched_overlap_is_that_of_the_masks_alone(tokenizer, images, monkeypatch):
    monkeypatch.setattr(
        tokenizer, "decode_features", lambda features: torch.where(images > 0, 0.9, -0.9) + 0 * features.sum()
    )
    losses = tokenizer_loss(tokenizer, TrainingHeads(tokenizer, RestartConfig(9)), images, masks=2)
    assert losses["_iou"] == 1


def sample(value: float, masked: bool) -> TrainingSample:
    """A plain image of one value, whose mask is full."""
    image = np.full((3, 8, 8), value, np.float32)
    return TrainingSample([], [], masks=[np.ones((8, 8), np.float32)] if masked else [], extras={"image": image})


@pytest.mark.parametrize(
    ("masked", "drawn", "values"),
    [
        ([True] * 3, 2, [1, 1, 0.2]),
        ([False] * 3, 0, [0.0, 0.1, 0.2]),
        ([False, True, False, True], 1, [1, 0.3, 0.0, 0.2]),
    ],
)
def test_half_of_the_masks_are_drawn_and_all_else_are_scenes(masked, drawn, values):
    batch = image_batch([sample(i / 10, has) for i, has in enumerate(masked)])
    assert batch["masks"] == drawn
    assert batch["images"].shape == (len(masked), 3, 8, 8)
    assert batch["images"][:, 0, 0, 0].tolist() == pytest.approx(values)


def test_images_without_masks_are_cropped_and_learned(tokenizer, images):
    losses = tokenizer_loss(tokenizer, TrainingHeads(tokenizer), images, masks=0)
    assert "_iou" not in losses
    assert torch.isfinite(losses["l1"])


def test_a_sample_without_a_mask_is_a_crop_of_its_image(argenseg, examples):
    processor = ImageProcessor(argenseg.mask_tokenizer.config)
    example = replace(examples[0], mask=None)
    made = [processor.prepare(example, "segment", np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert made[0].masks == []
    same, other = (np.array_equal(made[0].extras["image"], made[i].extras["image"]) for i in (1, 2))
    assert same and not other
    batch = processor.collate(made)
    assert batch["masks"] == 0
    assert batch["images"].shape == (3, 3, 32, 32)
    assert -1 <= batch["images"].min() < batch["images"].max() <= 1


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"codebook_restart": {"warmupp": 1}}, "unknown field 'warmupp'"),
        ({"adversarial": {"begin": 1}}, "unknown field 'begin'"),
        ({"perceptual": {}}, "perceptual: no field 'folder'"),
    ],
)
def test_settings_that_do_not_exist_are_named(build, settings, named):
    with pytest.raises(UserError, match=named):
        build("argenseg", backbone=None, **settings)


def one_process(rank: int, folder: str) -> None:
    """Two training steps of one of two processes that see different images."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    tokenizer = VQVAE(
        MaskTokenizerConfig(resolution=8, width=32, multipliers=(1, 1), blocks=1, codes=16, scales=(1, 2, 4))
    )
    torch.manual_seed(rank + 1)
    heads = TrainingHeads(tokenizer, RestartConfig(0, 1))
    for _ in range(2):
        tokenizer_loss(tokenizer, heads, torch.rand(4, 3, 8, 8) * 2 - 1, masks=2)
    torch.save({"codes": tokenizer.quantize.embedding.weight.detach(), "hits": heads.restart.hits,
                "usage": tokenizer.quantize.ema_vocab_hit_SV}, f"{folder}/{rank}.pt")  # fmt: skip
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_keep_the_same_codes_and_counts(tmp_path):
    multiprocessing.spawn(one_process, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["hits"].sum() == 2 * 4 * 21
