"""The mask tokenizer against vectors that the released code produced, and against the released state dict."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from methods.himtok.hierarchy import blurred
from methods.himtok.mask_tokenizer import MaskTokenizer, MaskTokenizerConfig

SMALL = MaskTokenizerConfig(
    width=64, encoder_layers=2, decoder_layers=2, heads=4, ffn_out=64, pixel_base=32, pixel_multipliers=(1, 1, 1, 2, 2),
    encoder_layout="official", code_space="official",
)  # fmt: skip
DRAWN = [4, 5]  # the masks whose decodings are stored: several regions, and a ring


@pytest.fixture(scope="module")
def golden(goldens):
    content = dict(np.load(goldens / "himtok" / "tokenizer.npz"))
    return {name: torch.from_numpy(value) for name, value in content.items()}


@pytest.fixture(scope="module")
def tokenizer(goldens):
    tokenizer = MaskTokenizer(SMALL).eval()
    weights = load_file(goldens / "himtok" / "weights.safetensors")
    missing, unexpected = tokenizer.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["encoder.attn_mask"], [])
    return tokenizer


def unpacked(bits: torch.Tensor) -> torch.Tensor:
    """Bits of rows -> masks float [..., 1, 256, 256]."""
    return torch.from_numpy(np.unpackbits(bits.numpy(), axis=-1)).float().unsqueeze(-3)


def pooled(probabilities: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(probabilities, 8)


@torch.no_grad()
def test_masks_become_the_released_ids(tokenizer, golden):
    masks = unpacked(golden["masks"])
    torch.testing.assert_close(tokenizer.latents(masks), golden["z"], rtol=0, atol=2e-5)
    assert torch.equal(tokenizer.encode(masks), golden["ids"].long())


@torch.no_grad()
def test_the_quantisers_losses(tokenizer, golden):
    vectors, ids, loss = tokenizer.quantize(golden["z"])
    assert torch.equal(ids, golden["ids"].long())
    assert float(loss) == pytest.approx(float(golden["losses"][0]), abs=1e-6)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(8, 32))


def one_hot(golden, tokens: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(golden["ids"][DRAWN, :tokens].long(), 1024).float()


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 4, 16, 32])
def test_the_first_tokens_decode_to_the_released_mask(tokenizer, golden, tokens):
    probabilities = one_hot(golden, tokens)
    logits = tokenizer.logits(tokenizer.mix(probabilities))
    torch.testing.assert_close(logits[:, ::4, ::4], golden[f"logits_{tokens}"], rtol=0, atol=2e-3)
    found = pooled(tokenizer.decode_soft(probabilities))
    torch.testing.assert_close(found, golden[f"prob_trunc_{tokens}"], rtol=0, atol=2e-4)
    found = pooled(tokenizer.decode(golden["ids"][DRAWN, :tokens].long()))
    torch.testing.assert_close(found, golden[f"tokens_l2_{tokens}"], rtol=0, atol=2e-4)


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 16])
def test_zero_probabilities_are_not_missing_tokens(tokenizer, golden, tokens):
    """The released loss zeroes probabilities, which leaves the embedding's bias: another image than fewer tokens."""
    probabilities = one_hot(golden, 32)
    probabilities[:, tokens:] = 0
    found = pooled(tokenizer.decode_soft(probabilities))
    torch.testing.assert_close(found, golden[f"prob_zeroed_{tokens}"], rtol=0, atol=2e-4)
    assert (found - golden[f"prob_trunc_{tokens}"]).abs().max() > 0.01


@torch.no_grad()
def test_the_two_code_spaces_are_different_images(tokenizer, golden):
    normalised = MaskTokenizer(replace(SMALL, code_space="normalised")).eval()
    normalised.load_state_dict(tokenizer.state_dict())
    probabilities = one_hot(golden, 32)
    assert (normalised.decode_soft(probabilities) - tokenizer.decode_soft(probabilities)).abs().max() > 0.1
    ids = golden["ids"][DRAWN].long()
    torch.testing.assert_close(normalised.decode_soft(probabilities), normalised.decode(ids), rtol=0, atol=1e-5)


@pytest.mark.parametrize("level", [1, 4, 16, 31])
def test_blurred_labels_equal_the_released_ones_before_their_normalisation(golden, level):
    """The released code divides each label by its maximum, which the paper does not mention."""
    label = blurred(unpacked(golden["label_mask"])[0][None], torch.tensor([level]), 32)[0]
    torch.testing.assert_close((label / label.max())[::4, ::4], golden[f"label_{level}"], rtol=0, atol=5e-6)


def test_names_and_shapes_are_those_of_the_released_tokenizer(goldens):
    with torch.device("meta"):
        tokenizer = MaskTokenizer(MaskTokenizerConfig())
    found = {name: list(tensor.shape) for name, tensor in tokenizer.state_dict().items()}
    assert found == json.loads((goldens / "himtok" / "state_dict.json").read_text())
    assert len(found) == 693
