"""A discriminator that learns to tell decoded images from real ones: an optional loss of the tokenizer's stage.

PatchGAN (Isola et al., CVPR 2017), hinge losses and the adaptive weight of VQGAN (Esser et al., CVPR 2021). One
backward pass and one optimiser serve both sides: the discriminator's loss sees the decoded images cut off from the
decoder, the decoder's loss sees the discriminator's weights cut off. Reversing one shared gradient would be shorter,
but the hinge is flat where the discriminator is sure, and the decoder would learn nothing there.

Shapes: B images, R side in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from methods.argenseg.mask_tokenizer import norm
from methods.base import UserError

MOST = 1e4  # of the adaptive weight


class Discriminator(nn.Module):
    """Begins after `start` passes. width: channels of the first layer, doubled up to eightfold; layers: halvings.

    It is trained by the stage's optimiser, at a rate of its own with `lr_scale: {"heads.discriminator*": ...}`, and is
    kept in training checkpoints but not in the saved model.
    """

    def __init__(self, side: int, start: int = 0, width: int = 64, layers: int = 3):
        super().__init__()
        if width % 32 or layers < 1 or side >> layers < 3:
            raise UserError(
                f"adversarial: {layers} layers of width {width} do not fit images of {side} px; choose a width "
                "divisible by 32 and fewer layers."
            )
        self.start = start
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.net = patch_gan(width, layers)
        for name, parameter in self.net.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, 0, 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def losses(self, decoded: Tensor, images: Tensor, reconstruction: Tensor, last: Tensor) -> dict[str, Tensor]:
        """Drawn and real images [B, 3, R, R] in -1..1 -> "discriminator", "adversarial", and what is worth watching.

        The adversarial loss pulls at `last`, the decoder's last weights, as hard as `reconstruction` does; the stage's
        `weights` say what share of that is wanted (VQGAN 0.8, VAR 0.4). Its value stays that of the hinge.
        """
        self.step += 1
        if int(self.step) <= self.start:
            return {}
        real, cut_off = self.net(images).float(), self.net(decoded.detach()).float()
        fixed = {name: parameter.detach() for name, parameter in self.net.named_parameters()}
        plain = -functional_call(self.net, fixed, (decoded,)).float().mean()
        weight = pull(reconstruction, last) / (pull(plain, last) + 1e-4)
        weight = weight.clamp(max=MOST)
        return {
            "discriminator": (F.relu(1 - real).mean() + F.relu(1 + cut_off).mean()) / 2,
            "adversarial": plain.detach() + weight * (plain - plain.detach()),
            "_adversarial_weight": weight,
            "_judged_real": real.detach().mean(),
            "_judged_decoded": cut_off.detach().mean(),
        }


def pull(loss: Tensor, weights: Tensor) -> Tensor:
    """The norm of a loss's gradient by some weights, without using up the graph."""
    (gradient,) = torch.autograd.grad(loss, weights, retain_graph=True)
    return gradient.float().norm()


def patch_gan(width: int, layers: int) -> nn.Sequential:
    """[B, 3, R, R] -> a judgement of each patch, [B, 1, r, r]. Group norms, which unlike batch norms hold no state and
    are the same on one process as on many."""
    parts: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    for i in range(1, layers + 1):
        narrow, wide = (width * min(2**level, 8) for level in (i - 1, i))
        parts += [nn.Conv2d(narrow, wide, 4, 2 if i < layers else 1, 1), norm(wide), nn.LeakyReLU(0.2)]
    return nn.Sequential(*parts, nn.Conv2d(width * min(2**layers, 8), 1, 4, 1, 1))
