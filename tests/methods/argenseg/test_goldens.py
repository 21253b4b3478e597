"""The picture tokenizer against vectors that the released code produced, and against VAR's state dict.

The weights are not stored: every tensor is a function of its name and shape (splitmix64 counters, so that any NumPy
makes the same bits), and the reference model was filled in the same way.
"""

import hashlib
import json

import numpy as np
import pytest
import torch

from methods.argenseg.quantizer import SCALES_256, phi_of_scale
from methods.argenseg.tokenizer import VQVAE, CodecConfig

SEED = 1
STEP, FIRST, SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in -1..1 of 24 bits."""
    start = np.uint64(int.from_bytes(hashlib.sha256(f"{SEED}:{name}".encode()).digest()[:8], "little"))
    with np.errstate(over="ignore"):
        z = start + np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * STEP
        z = (z ^ (z >> np.uint64(30))) * FIRST
        z = (z ^ (z >> np.uint64(27))) * SECOND
        z = z ^ (z >> np.uint64(31))
    return 2 * ((z >> np.uint64(40)).astype(np.float64) / float(1 << 24)).reshape(shape) - 1


def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Codes of deviation 1/2, convolutions of deviation fan-in^(-1/2), norms around 1, small biases."""
    values = uniform(f"image_tokenizer.{name}", shape)
    if name == "quantize.ema_vocab_hit_SV":
        values = np.zeros(shape)
    elif name == "quantize.embedding.weight":
        values = values * 3**0.5 * 0.5
    elif len(shape) == 4:
        values = values * 3**0.5 / float(np.prod(shape[1:])) ** 0.5
    else:
        values = 1 + 0.25 * values if name.endswith("weight") else 0.1 * values
    return torch.from_numpy(values.astype(np.float32))


@pytest.fixture(scope="module")
def codec():
    codec = VQVAE(CodecConfig(width=32)).eval()
    codec.load_state_dict({name: weight(name, tuple(t.shape)) for name, t in codec.state_dict().items()})
    return codec


@pytest.fixture(scope="module")
def golden(goldens):
    content = dict(np.load(goldens / "argenseg" / "vqvae.npz"))
    return {name: torch.from_numpy(value) for name, value in content.items()}


def test_the_weights_are_the_references(codec):
    digest = hashlib.sha256(codec.encoder.conv_in.weight.detach().numpy().tobytes()).hexdigest()
    assert digest == "5a32f3fa2a4d6b54a8c9f98b90e60aeaa4e979b5d0644f0469e18fcaaccebb53"


@torch.no_grad()
def test_pictures_become_the_released_ids(codec, golden):
    """Two masks and a textured picture."""
    assert torch.equal(codec.encode(golden["masks"][:, None] / 255), golden["ids"].long())


@torch.no_grad()
def test_slot_inputs_are_the_shrunk_sums_of_all_earlier_scales(codec, golden):
    found = codec.quantize.teacher_forcing(golden["ids"][:1].long())[0]
    torch.testing.assert_close(found, golden["slots"], rtol=0, atol=1e-5)


@torch.no_grad()
def test_ids_decode_to_the_released_picture(codec, golden):
    sums = codec.quantize.accumulate(codec.quantize.embedding(golden["picture_ids"].long()[None]))
    picture = codec.draw(sums[-1])[0].clamp(-1, 1)
    torch.testing.assert_close(picture[:, ::4, ::4], golden["picture"], rtol=0, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("scale", [0, 4])
def test_every_scale_gives_a_mask(codec, golden, scale):
    """The reference truncates each colour to 8 bits before it takes the mean."""
    ids = golden["picture_ids"].long()[None, : codec.prefixes[scale]]
    grey = 255 * codec.decode(ids)[0, ::8, ::8]
    assert ((grey - golden["scale_greys"][scale] > -0.01) & (grey - golden["scale_greys"][scale] < 1.01)).all()


def test_a_mask_becomes_the_references_picture(build, examples, golden):
    """White on black, squashed with Pillow's bicubic filter: one resize, where the release makes two."""
    from dataclasses import replace

    method = build("argenseg", backbone=None, codec={"width": 32, "multipliers": [1, 1, 1, 1, 1], "blocks": 1})
    view = method.codec_view(replace(examples[0], mask=golden["mask"].numpy()))
    assert np.abs(255 * view - golden["view"].numpy()).max() <= 1


def test_names_and_shapes_are_those_of_vars_file(goldens):
    with torch.device("meta"):
        codec = VQVAE(CodecConfig())
    found = {name: list(tensor.shape) for name, tensor in codec.state_dict().items()}
    stored = json.loads((goldens / "argenseg" / "state_dict.json").read_text())
    assert found == {name: list(shape) for name, shape in stored.items()}
    assert len(found) == 324
    assert codec.length == 680


def test_phis_of_the_reference(goldens):
    table = json.loads((goldens / "argenseg" / "phi_index_table.json").read_text())
    for name, expected in table.items():
        phis, scales = (int(part[1:]) for part in name.split("_"))
        assert list(phi_of_scale(phis, scales)) == expected, name
    assert phi_of_scale(4, len(SCALES_256)) == (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)
