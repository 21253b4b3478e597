"""Stage 1: when codes are placed, and what the tokenizer is trained on."""

import pytest
import torch
from torch import distributed, multiprocessing

from methods.himtok import tokenizer_training as codebook
from methods.himtok.hierarchy import blurred, mask_loss
from methods.himtok.mask_tokenizer import MaskTokenizer, MaskTokenizerConfig
from methods.himtok.tokenizer_training import LatentRestart, tokenizer_loss

SMALL = {
    "resolution": 64, "width": 64, "encoder_layers": 1, "decoder_layers": 1, "heads": 4, "codes": 16, "ffn_out": 32,
    "pixel_base": 8, "pixel_multipliers": (1, 1, 1, 1, 1), "pixel_blocks": 1, "latents": 4,
}  # fmt: skip


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    return MaskTokenizer(MaskTokenizerConfig(**SMALL))


@pytest.fixture
def masks():
    masks = torch.zeros(4, 1, 64, 64)
    masks[0, 0, 8:40, 8:40] = 1
    masks[1, 0, 30:, :] = 1
    masks[2, 0, :8, 50:] = 1
    return masks


def unit_codes(tokenizer) -> torch.Tensor:
    return torch.nn.functional.normalize(tokenizer.quantize.table(), dim=-1)


def test_the_first_steps_leave_the_latents_unquantised(tokenizer):
    restart = LatentRestart(tokenizer.size, warmup=3, every=2)
    z = torch.randn(2, 4, 12)
    assert [restart.before(tokenizer, z) for _ in range(6)] == [False] * 3 + [True] * 3


@torch.no_grad()
def test_after_the_warm_up_every_code_lies_at_a_latent_that_was_seen(tokenizer):
    restart = LatentRestart(tokenizer.size, warmup=0)
    z = 3 * torch.randn(2, 4, 12)
    restart.before(tokenizer, z)
    cosine = unit_codes(tokenizer) @ torch.nn.functional.normalize(z, dim=-1).flatten(0, 1).T
    assert (cosine.amax(1) > 0.99).all()


@torch.no_grad()
def test_trained_codes_stay_where_they_are(tokenizer):
    restart = LatentRestart(tokenizer.size, warmup=0, every=2, placed=True)
    before = unit_codes(tokenizer)
    assert restart.before(tokenizer, torch.randn(2, 4, 12))
    restart.after(torch.tensor([[3]]))
    restart.before(tokenizer, torch.randn(2, 4, 12))
    assert torch.equal(unit_codes(tokenizer), before)


@torch.no_grad()
def test_only_codes_that_nothing_chose_are_moved(tokenizer):
    restart = LatentRestart(tokenizer.size, warmup=0, every=5)
    z = torch.randn(2, 4, 12)
    restart.before(tokenizer, z)
    restart.after(torch.tensor([[3, 5, 5, 9]]))
    before = unit_codes(tokenizer)
    for _ in range(4):
        restart.before(tokenizer, torch.randn(2, 4, 12))
        assert torch.equal(unit_codes(tokenizer), before)  # not yet
    restart.before(tokenizer, torch.randn(2, 4, 12))
    moved = (unit_codes(tokenizer) - before).abs().amax(1) > 1e-6
    assert (~moved).nonzero().flatten().tolist() == [3, 5, 9]
    assert restart.hits.sum() == 0


def test_the_share_of_used_codes_is_reported(tokenizer):
    restart = LatentRestart(tokenizer.size, warmup=0)
    assert restart.after(torch.tensor([[0, 1, 1, 2]])) == 3 / 16
    assert restart.after(torch.tensor([[2, 7]])) == 4 / 16


def test_counts_travel_with_the_state(tokenizer):
    restart = LatentRestart(tokenizer.size, warmup=2)
    restart.before(tokenizer, torch.randn(1, 4, 12))
    restart.after(torch.tensor([[1, 1]]))
    other = LatentRestart(tokenizer.size, warmup=2)
    other.load_state_dict(restart.state_dict())
    assert (int(other.step), other.hits.tolist()) == (1, restart.hits.tolist())


def test_during_the_warm_up_the_quantiser_has_no_loss_but_the_encoder_learns(tokenizer, masks):
    losses = tokenizer_loss(tokenizer, LatentRestart(tokenizer.size, warmup=5), masks, dice=1.0)
    assert losses["quantizer"] == 0
    (losses["reconstruction"] + losses["quantizer"]).backward()
    assert tokenizer.encoder.conv_out.weight.grad.abs().sum() > 0
    assert tokenizer.decoder.decoder_embed.weight.grad.abs().sum() > 0
    assert tokenizer.quantize.embedding.weight.grad.abs().sum() == 0


def test_afterwards_codes_encoder_and_decoder_all_learn(tokenizer, masks):
    losses = tokenizer_loss(tokenizer, LatentRestart(tokenizer.size, warmup=0), masks, dice=1.0)
    assert losses["quantizer"] > 0
    (losses["reconstruction"] + losses["quantizer"]).backward()
    for weight in (
        tokenizer.encoder.conv_out.weight,
        tokenizer.decoder.decoder_embed.weight,
        tokenizer.quantize.embedding.weight,
    ):
        assert weight.grad.abs().sum() > 0


def test_half_of_a_batch_is_whole_and_half_is_cut_and_blurred(tokenizer, masks, monkeypatch):
    monkeypatch.setattr(codebook, "draw_levels", lambda count, tokens, replacement: torch.tensor([1, 3])[:count])
    restart = LatentRestart(tokenizer.size, warmup=0)
    losses = tokenizer_loss(tokenizer, restart, masks, dice=1.0)
    with torch.no_grad():
        codes, _, _ = tokenizer.quantize(tokenizer.latents(masks))
        kept = torch.tensor([4, 4, 1, 3])
        expected = mask_loss(tokenizer.logits(codes, kept), blurred(masks[:, 0], kept, 4), 1.0)
    torch.testing.assert_close(losses["reconstruction"], expected)


def test_a_single_mask_is_a_batch(tokenizer, masks):
    losses = tokenizer_loss(tokenizer, LatentRestart(tokenizer.size, warmup=0), masks[:1], dice=1.0)
    assert all(torch.isfinite(value) for value in losses.values())
    assert 0 <= losses["_iou"] <= 1


def one_process(rank: int, folder: str) -> None:
    """Two training steps of one of two processes that see different masks."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    tokenizer = MaskTokenizer(MaskTokenizerConfig(**SMALL))
    torch.manual_seed(rank + 1)
    restart = LatentRestart(tokenizer.size, warmup=0, every=1)
    for _ in range(2):
        tokenizer_loss(tokenizer, restart, torch.rand(4, 1, 64, 64), dice=1.0)
    state = {"codes": tokenizer.quantize.embedding.weight.detach(), "hits": restart.hits}
    torch.save(state, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_keep_the_same_codes_and_counts(tmp_path):
    multiprocessing.spawn(one_process, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["hits"].sum() == 2 * 4 * 4
