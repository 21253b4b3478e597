"""Training the picture tokenizer: a stand-in for VAR's published one where that cannot be had.

The published VQ-VAE saw natural images only. This one is trained on scenes and on masks drawn as pictures, half and
half where samples have masks, because a small model has no capacity to spare; tables name it as trained here. A plain
folder of pictures, which has no masks, trains it as VAR's was.

Shapes: B pictures, R side in pixels, C code width, G side of the feature map, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from methods.argenseg.discriminator import Adversary
from methods.argenseg.mask_tokenizer import VQVAE
from methods.argenseg.perceptual import Perceptual
from methods.augment import augmented
from methods.base import Example, TrainingSample, UserError, open_image


def random_crop(image: Image.Image, side: int, rng: np.random.Generator) -> Image.Image:
    """VAR's preparation of a picture: the shorter side to 9/8 of `side` with Lanczos, then a random square."""
    shorter = round(1.125 * side)
    width, height = (max(shorter, round(n * shorter / min(image.size))) for n in image.size)
    left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
    resized = image.resize((width, height), Image.Resampling.LANCZOS)
    return resized.crop((left, top, left + side, top + side))


def picture_sample(example: Example, mask: np.ndarray | None, side: int, rng: np.random.Generator) -> TrainingSample:
    """A scene squashed to a square as its mask [R, R] is, or without a mask a random square of a picture."""
    image = open_image(example.image)
    square = image.resize((side, side), Image.Resampling.BICUBIC) if mask is not None else random_crop(image, side, rng)
    pixels = np.asarray(square, np.float32).transpose(2, 0, 1) / 127.5 - 1
    return TrainingSample([], [], masks=[] if mask is None else [mask], extras={"picture": pixels})


def picture_batch(samples: Sequence[TrainingSample]) -> dict[str, Any]:
    """`pictures` [B, 3, R, R] in -1..1, of which the first `drawn` are masks: half of the samples that have one."""
    masked, plain = ([s for s in samples if bool(s.masks) == has] for has in (True, False))
    drawn = len(masked) - len(masked) // 2
    masks = [np.broadcast_to(2 * sample.masks[0] - 1, (3, *sample.masks[0].shape)) for sample in masked[:drawn]]
    scenes = [sample.extras["picture"] for sample in [*masked[drawn:], *plain]]
    return {"pictures": torch.from_numpy(np.stack([*masks, *scenes]).astype(np.float32)), "drawn": drawn}


def with_augmented_masks(pictures: Tensor, drawn: int, augmentation: str) -> Tensor:
    """The batch's pictures [B, 3, R, R] with other masks in place of the first `drawn`; scenes stay as they are."""
    if augmentation == "none" or not drawn:
        return pictures
    masks = augmented((pictures[:drawn, :1] + 1) / 2, augmentation)
    return torch.cat([(2 * masks - 1).expand(-1, 3, -1, -1), pictures[drawn:]])


class PictureHeads(nn.Module):
    """What the stage needs beside the codec. `keeper`, `perceptual` and `adversarial` are the settings of the three
    classes; without the latter two there are no such losses."""

    def __init__(
        self, codec: VQVAE, keeper: Mapping[str, Any] | None = None, perceptual: Mapping[str, Any] | None = None,
        adversarial: Mapping[str, Any] | None = None,
    ):  # fmt: skip
        super().__init__()
        try:
            self.keeper = CodebookKeeper(codec, **(keeper or {}))
            self.perceptual = None if perceptual is None else Perceptual(**perceptual)
            self.adversary = None if adversarial is None else Adversary(codec.resolution, **adversarial)
        except TypeError as error:
            reason = str(error).split("__init__() ")[-1]
            raise UserError(f"parts: {reason}; correct keeper, perceptual or adversarial.") from None


class CodebookKeeper(nn.Module):
    """Places codes on vectors that the quantiser met, first after `warmup` unquantised passes, and moves the unused
    ones there again every `every` passes. placed: the codes are trained ones, so that a first placement is not due.

    A pass is a forward pass of all processes at once. All count the same hits and hold the same codes.
    """

    def __init__(self, codec: VQVAE, warmup: int = 200, every: int = 50, placed: bool = False):
        super().__init__()
        self.warmup, self.every, self.placed = warmup, every, placed
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.register_buffer("hits", torch.full((codec.size,), float(placed)))

    @torch.no_grad()
    def before(self, codec: VQVAE, features: Tensor) -> bool:
        """Place codes if their time has come -> whether this step quantises.

        features [B, C, G, G] of this batch, before the codes take part in the graph.
        """
        step = int(self.step) - self.warmup
        self.step += 1
        if step >= 0 and step % self.every == 0:
            quantizer, dead = codec.quantize, (self.hits == 0).nonzero().flatten()
            if step == 0 and not self.placed:
                quantizer.embedding.weight.zero_()
            met = residual_cells(quantizer, features.detach().float())
            pick = torch.randint(len(met), (len(dead),), device=met.device)
            noise = 0.01 * met.std() * torch.randn(len(dead), met.shape[1], device=met.device)
            quantizer.embedding.weight[dead] = met[pick] + noise
            if torch.distributed.is_initialized():  # every process has drawn its own cells
                torch.distributed.broadcast(quantizer.embedding.weight.data, 0)
            self.hits.zero_()
        return step >= 0

    @torch.no_grad()
    def after(self, ids: Tensor) -> Tensor:
        """Count a batch's ids, of all processes -> the share of codes used since the last placement."""
        hits = torch.bincount(ids.flatten(), minlength=len(self.hits)).to(self.hits)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(hits)
        self.hits += hits
        return (self.hits > 0).float().mean()


def residual_cells(quantizer, features: Tensor) -> Tensor:
    """What each scale is asked to quantise, [N, C], the same number of cells from every scale but the smallest."""
    rest, cells = features, []
    for k in range(len(quantizer.scales)):
        z = quantizer.shrink(rest, k)
        cells.append(z.flatten(0, 1))
        rest = rest - quantizer.contribution(quantizer.embedding(quantizer.nearest(z)), k)
    most = 2048
    return torch.cat([c[torch.randperm(len(c), device=c.device)[:most]] for c in cells])


def tokenizer_loss(codec: VQVAE, heads: PictureHeads, pictures: Tensor, masks: int) -> dict[str, Tensor]:
    """pictures [B, 3, R, R] in -1..1, of which the first `masks` are drawn masks -> losses and what to watch."""
    features = codec.features(pictures)
    quantised = heads.keeper.before(codec, features)
    quantized, ids, quantizer = codec.quantize(features)
    if not quantised:
        quantized, quantizer = features, 0 * quantizer
    drawn = codec.draw(quantized).float()
    losses = {"l1": F.l1_loss(drawn, pictures), "l2": F.mse_loss(drawn, pictures)}
    if heads.perceptual:
        losses["perceptual"] = heads.perceptual(drawn, pictures)
    if heads.adversary is not None:
        losses |= heads.adversary.losses(drawn, pictures, sum(losses.values()), codec.decoder.conv_out.weight)
    used = codec.quantize.count(ids)
    return losses | {
        "quantizer": quantizer,
        **({"_iou": mask_iou(drawn[:masks], pictures[:masks])} if masks else {}),
        "_codes_used": heads.keeper.after(ids),
        **{f"_codes_used_{side}": share for side, share in zip(codec.quantize.scales, used, strict=True)},
    }


@torch.no_grad()
def mask_iou(drawn: Tensor, truth: Tensor) -> Tensor:
    """The mean IoU of masks drawn as pictures [B, 3, R, R] in -1..1."""
    predicted, true = drawn.mean(1) > 0, truth[:, 0] > 0
    union = (predicted | true).flatten(1).sum(1).clamp(min=1)
    return ((predicted & true).flatten(1).sum(1) / union).mean()
