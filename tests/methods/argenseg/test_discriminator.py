"""The discriminator: both sides learn in one backward pass, each only its own part."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from methods.argenseg.config import DiscriminatorConfig, RestartConfig
from methods.argenseg.discriminator import Discriminator, pull
from methods.argenseg.mask_tokenizer import VQVAE, MaskTokenizerConfig
from methods.argenseg.tokenizer_training import TrainingHeads, tokenizer_loss
from methods.base import UserError


@pytest.fixture
def discriminator():
    torch.manual_seed(0)
    return Discriminator(32, width=32, layers=2)


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    config = MaskTokenizerConfig(
        resolution=32, width=32, multipliers=(1, 1, 1, 1), blocks=1, codes=16, scales=(1, 2, 4)
    )
    return VQVAE(config)


class Painter(nn.Module):
    """Draws an image of one colour."""

    def __init__(self, colour: float):
        super().__init__()
        self.colour = nn.Parameter(torch.tensor(colour))

    def forward(self, count: int) -> torch.Tensor:
        return self.colour.expand(count, 3, 32, 32) + 0.0


def test_it_learns_to_separate(discriminator):
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=2e-3)
    painter, real = Painter(-0.5), torch.rand(4, 3, 32, 32)
    for _ in range(30):
        drawn = painter(4)
        losses = discriminator.losses(drawn, real, (drawn - real).abs().mean(), painter.colour)
        optimizer.zero_grad()
        losses["discriminator"].backward()
        optimizer.step()
    assert losses["_judged_real"] > 0.5 > -0.5 > losses["_judged_decoded"]
    assert losses["discriminator"] < 0.5


def test_each_side_gets_the_gradient_of_its_own_loss(discriminator):
    """The discriminator's loss does not reach the painter, the painter's does not reach the discriminator."""
    painter, real = Painter(-0.5), torch.rand(4, 3, 32, 32)
    drawn = painter(4)
    losses = discriminator.losses(drawn, real, (drawn - real).abs().mean(), painter.colour)
    own = list(discriminator.net.parameters())
    assert torch.autograd.grad(losses["discriminator"], painter.colour, allow_unused=True, retain_graph=True) == (None,)
    assert set(torch.autograd.grad(losses["adversarial"], own, allow_unused=True, retain_graph=True)) == {None}
    total = losses["discriminator"] + losses["adversarial"]
    together = torch.autograd.grad(total, [painter.colour, *own], retain_graph=True)
    apart = (*torch.autograd.grad(losses["adversarial"], painter.colour, retain_graph=True),
             *torch.autograd.grad(losses["discriminator"], own))  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(together, apart, strict=True))


def test_the_painter_is_pulled_to_what_is_judged_real(discriminator):
    """A step down its loss raises the judgement of what it draws, also where the hinge is flat."""
    painter, real = Painter(-0.5), torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        discriminator.net[-1].bias.fill_(-5)  # surely drawn
    drawn = painter(4)
    losses = discriminator.losses(drawn, real, (drawn - real).abs().mean(), painter.colour)
    losses["adversarial"].backward()
    with torch.no_grad():
        before = discriminator.net(painter(4)).mean()
        painter.colour -= 0.02 * painter.colour.grad.sign()
        assert discriminator.net(painter(4)).mean() > before


def test_it_pulls_as_hard_as_the_reconstruction(discriminator):
    painter, real = Painter(-0.5), torch.rand(4, 3, 32, 32)
    drawn = painter(4)
    reconstruction = 3 * (drawn - real).abs().mean()
    losses = discriminator.losses(drawn, real, reconstruction, painter.colour)
    force = float(pull(losses["adversarial"], painter.colour))
    assert float(pull(reconstruction, painter.colour)) == pytest.approx(force, rel=0.01)
    value = float(losses["adversarial"].detach())  # is not weighted, so that the total stays comparable
    assert value == pytest.approx(-float(losses["_judged_decoded"]), abs=1e-6)


def test_it_waits_for_its_start(tokenizer):
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    heads = TrainingHeads(tokenizer, RestartConfig(0), adversarial=DiscriminatorConfig(start=2, width=32, layers=2))
    found = [tokenizer_loss(tokenizer, heads, images, 0).keys() & {"discriminator", "adversarial"} for _ in range(3)]
    assert found == [set(), set(), {"discriminator", "adversarial"}]


def test_decoder_and_discriminator_learn_together(tokenizer):
    """Some steps of the whole: the discriminator gets surer, and no gradient of it leaks into the encoder's codes."""
    torch.manual_seed(1)
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    heads = TrainingHeads(tokenizer, RestartConfig(0), adversarial=DiscriminatorConfig(width=32, layers=2))
    optimizer = torch.optim.AdamW([*tokenizer.parameters(), *heads.parameters()], lr=1e-3)
    seen = []
    for _ in range(12):
        losses = tokenizer_loss(tokenizer, heads, images, 0)
        optimizer.zero_grad()
        sum(value for name, value in losses.items() if not name.startswith("_")).backward()
        optimizer.step()
        seen.append(float(losses["discriminator"].detach()))
    assert seen[-1] < 0.7 * seen[0]
    assert all(p.grad is not None for p in heads.discriminator.net.parameters())


def test_images_that_are_too_small_are_refused():
    with pytest.raises(UserError, match="4 layers of width 64 do not fit images of 32 px"):
        Discriminator(32, layers=4)
    with pytest.raises(UserError, match="width 40"):
        Discriminator(64, width=40)


def test_it_is_not_saved_with_the_model(build, tmp_path):
    method = build("argenseg", mask_tokenizer_config="short", backbone=None, adversarial={"width": 32, "layers": 2})
    method.enter_stage("tokenizer")
    assert any(name.startswith("heads.discriminator.net") for name in method.state_dict())
    method.save_pretrained(tmp_path)
    assert not any(name.startswith("heads") for name in load_file(tmp_path / "model.safetensors"))
    assert type(method).from_pretrained(tmp_path).heads.discriminator is None
