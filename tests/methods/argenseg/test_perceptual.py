"""The perceptual distance, by tiny networks of random weights in transformers' layout."""

import json

import pytest
import torch
from transformers import (
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    Qwen2Config,
    Qwen2Model,
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTModel,
)

from methods.argenseg.config import PerceptualConfig, RestartConfig
from methods.argenseg.mask_tokenizer import VQVAE, MaskTokenizerConfig
from methods.argenseg.perceptual import Perceptual
from methods.argenseg.tokenizer_training import TrainingHeads, tokenizer_loss
from methods.base import UserError

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
NETWORKS = {
    "resnet": lambda: ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])),
    "convnext": lambda: ConvNextModel(ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**SMALL, image_size=28, patch_size=14)),
    "vit": lambda: ViTModel(ViTConfig(**SMALL, image_size=28, patch_size=14)),
}


@pytest.fixture(params=NETWORKS)
def folder(request, tmp_path):
    torch.manual_seed(0)
    NETWORKS[request.param]().save_pretrained(tmp_path / "net")
    return tmp_path / "net"


@pytest.fixture
def resnet(tmp_path):
    torch.manual_seed(0)
    NETWORKS["resnet"]().save_pretrained(tmp_path / "resnet")
    return tmp_path / "resnet"


def images(seed: int, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_equal_images_have_no_distance_and_others_have_one(folder):
    distance, first = Perceptual(str(folder)), images(0)
    assert distance(first, first) == 0
    near, far = first + 0.02 * images(1), images(1)
    assert 0 < distance(near, first) < distance(far, first)


def test_the_gradient_reaches_the_drawn_images_alone(folder):
    distance, drawn = Perceptual(str(folder), side=28), images(0).requires_grad_()
    distance(drawn, images(1)).backward()
    assert drawn.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in distance.network(drawn.device).parameters())


def test_states_have_length_one_at_every_place(folder):
    for layer in Perceptual(str(folder)).states(images(0)):
        torch.testing.assert_close(layer.norm(dim=-1), torch.ones(layer.shape[:2]))


def test_by_hand(resnet):
    """The distance from the network's own hidden states, place by place."""
    first, second = images(0, 1), images(1, 1)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    network = ResNetModel.from_pretrained(resnet).eval()
    with torch.no_grad():
        layers = [network(((p + 1) / 2 - mean) / std, output_hidden_states=True).hidden_states for p in (first, second)]
    found = []
    for ours, theirs in zip(*layers, strict=True):
        places = zip(ours[0].flatten(1).T, theirs[0].flatten(1).T, strict=True)  # [C] each
        found.append([float(((u / u.norm() - v / v.norm()) ** 2).sum()) for u, v in places])
    expected = sum(sum(layer) / len(layer) for layer in found) / len(found)
    assert float(Perceptual(str(resnet))(first, second)) == pytest.approx(expected, rel=1e-4)


def test_training_does_not_change_the_network(resnet):
    torch.manual_seed(0)
    tokenizer = VQVAE(
        MaskTokenizerConfig(resolution=32, width=32, multipliers=(1, 1, 1, 1), blocks=1, codes=16, scales=(1, 2, 4))
    )
    heads = TrainingHeads(tokenizer, RestartConfig(9), perceptual=PerceptualConfig(str(resnet)))
    heads.train()
    losses = tokenizer_loss(tokenizer, heads, images(0), 0)
    before = {name: t.clone() for name, t in heads.perceptual.network(torch.device("cpu")).state_dict().items()}
    losses["perceptual"].backward()
    heads.train()
    tokenizer_loss(tokenizer, heads, images(1), 0)
    after = heads.perceptual.network(torch.device("cpu")).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert tokenizer.decoder.conv_out.weight.grad.abs().sum() > 0
    assert not [name for name in heads.state_dict() if "perceptual" in name]


def test_normalisation_is_the_network_s_own(resnet):
    (resnet / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    assert Perceptual(str(resnet)).mean.flatten().tolist() == [0.5] * 3


def test_folders_that_hold_no_image_network_are_named(tmp_path, resnet):
    with pytest.raises(UserError, match="no config.json; perceptual.folder must hold"):
        Perceptual(str(tmp_path))
    text = tmp_path / "text"
    Qwen2Model(Qwen2Config(**SMALL, num_key_value_heads=2, vocab_size=32)).save_pretrained(text)
    with pytest.raises(UserError, match="text: the network reads no images"):
        Perceptual(str(text))(images(0), images(1))
    (resnet / "model.safetensors").unlink()
    with pytest.raises(UserError, match="resnet: no readable network"):
        Perceptual(str(resnet))(images(0), images(1))
    (resnet / "preprocessor_config.json").write_text("{")
    with pytest.raises(UserError, match="preprocessor_config.json: not readable"):
        Perceptual(str(resnet))


def test_a_network_with_missing_weights_is_refused(resnet):
    config = json.loads((resnet / "config.json").read_text())
    (resnet / "config.json").write_text(json.dumps(config | {"depths": [1, 2]}))
    with pytest.raises(UserError, match="the network lacks encoder"):
        Perceptual(str(resnet))(images(0), images(1))
