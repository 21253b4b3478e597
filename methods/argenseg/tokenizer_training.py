"""Training the image tokenizer: a stand-in for VAR's published one where that cannot be had.

The published VQ-VAE saw natural images only. This one is trained on scenes and on masks as images, half and
half where samples have masks, because a small model has no capacity to spare; tables name it as trained here. A plain
folder of images, which has no masks, trains it as VAR's was.

Shapes: B images, R side in pixels, C code width, G side of the feature map, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from methods.argenseg.config import (
    DiscriminatorConfig,
    MaskTokenizerConfig,
    PerceptualConfig,
    TokenizerStage,
)
from methods.argenseg.discriminator import Discriminator
from methods.argenseg.mask_tokenizer import VQVAE
from methods.argenseg.masks import preprocess_mask
from methods.argenseg.perceptual import Perceptual
from methods.base import Example, TrainingSample
from methods.common.augment import augmented
from methods.common.codebook_restart import CodebookRestart
from methods.common.config import RestartConfig
from methods.common.masks import mask_iou
from methods.images import open_image
from methods.internvl.mask_tokenizer_stage import MaskTokenizerStage
from methods.internvl.model import made


class ImageProcessor:
    """methods.base.Processor of the tokenizer's stage: images, and masks as images."""

    def __init__(self, config: MaskTokenizerConfig):
        self.masks = config

    def prepare(self, example: Example, task: str, rng: np.random.Generator) -> TrainingSample:
        where, mask, side = f"{example.dataset} sample {example.ref_id}", example.mask, self.masks.resolution
        mask = None if mask is None else preprocess_mask(mask, side, self.masks.mask_resize, where)
        return image_sample(example, mask, side, rng)

    def collate(self, samples: Sequence[TrainingSample], pack: bool = False) -> dict[str, Any]:
        return image_batch(samples)


class ImageTokenizerTraining(MaskTokenizerStage):
    """methods.base.Trainee of the tokenizer's stage."""

    name, kind, sizes = "argenseg", VQVAE, MaskTokenizerConfig

    def __init__(
        self, mask_tokenizer: VQVAE, restart: RestartConfig = RestartConfig(),  # noqa: B008
        perceptual: PerceptualConfig | None = None, adversarial: DiscriminatorConfig | None = None,
        augmentation: str = "none",
    ):  # fmt: skip
        heads = TrainingHeads(mask_tokenizer, restart, perceptual, adversarial)
        super().__init__(mask_tokenizer, ImageProcessor(mask_tokenizer.config), heads, augmentation)

    @classmethod
    def build(cls, config: Mapping[str, Any], corpus: Callable[[], Iterable[str]]) -> Self:
        """See config.TokenizerStage."""
        stage = made(TokenizerStage, config)
        torch.manual_seed(stage.seed)
        masks = cls.load(Path(stage.start)) if stage.start else VQVAE(stage.mask_tokenizer_config)
        return cls(masks, stage.codebook_restart, stage.perceptual, stage.adversarial, stage.augmentation)

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        images = with_augmented_masks(batch["images"], batch["masks"], self.augmentation)
        return tokenizer_loss(self.mask_tokenizer, self.heads, images, batch["masks"])


def random_crop(image: Image.Image, side: int, rng: np.random.Generator) -> Image.Image:
    """VAR's preparation of an image: the shorter side to 9/8 of `side` with Lanczos, then a random square."""
    shorter = round(1.125 * side)
    width, height = (max(shorter, round(n * shorter / min(image.size))) for n in image.size)
    left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
    resized = image.resize((width, height), Image.Resampling.LANCZOS)
    return resized.crop((left, top, left + side, top + side))


def image_sample(example: Example, mask: np.ndarray | None, side: int, rng: np.random.Generator) -> TrainingSample:
    """A scene squashed to a square as its mask [R, R] is, or without a mask a random square of an image."""
    image = open_image(example.image)
    square = image.resize((side, side), Image.Resampling.BICUBIC) if mask is not None else random_crop(image, side, rng)
    pixels = np.asarray(square, np.float32).transpose(2, 0, 1) / 127.5 - 1
    return TrainingSample([], [], masks=[] if mask is None else [mask], extras={"image": pixels})


def image_batch(samples: Sequence[TrainingSample]) -> dict[str, Any]:
    """`images` [B, 3, R, R] in -1..1, of which the first `masks` are masks: half of the samples that have one."""
    masked, plain = ([s for s in samples if bool(s.masks) == has] for has in (True, False))
    count = len(masked) - len(masked) // 2
    masks = [np.broadcast_to(2 * sample.masks[0] - 1, (3, *sample.masks[0].shape)) for sample in masked[:count]]
    scenes = [sample.extras["image"] for sample in [*masked[count:], *plain]]
    return {"images": torch.from_numpy(np.stack([*masks, *scenes]).astype(np.float32)), "masks": count}


def with_augmented_masks(images: Tensor, count: int, augmentation: str) -> Tensor:
    """The batch's images [B, 3, R, R] with other masks in place of the first `count`; scenes stay as they are."""
    if augmentation == "none" or not count:
        return images
    masks = augmented((images[:count, :1] + 1) / 2, augmentation)
    return torch.cat([(2 * masks - 1).expand(-1, 3, -1, -1), images[count:]])


class TrainingHeads(nn.Module):
    """What the stage needs beside the VQ-VAE; no perceptual or adversarial loss without its configuration."""

    def __init__(
        self, tokenizer: VQVAE, restart: RestartConfig = RestartConfig(),  # noqa: B008
        perceptual: PerceptualConfig | None = None, adversarial: DiscriminatorConfig | None = None,
    ):  # fmt: skip
        super().__init__()
        self.restart = CellRestart(tokenizer.size, **asdict(restart))
        self.perceptual = None if perceptual is None else Perceptual(**asdict(perceptual))
        self.discriminator = None if adversarial is None else Discriminator(tokenizer.resolution, **asdict(adversarial))


class CellRestart(CodebookRestart):
    """Codes that nothing chose move to vectors that the quantiser met."""

    def fresh(self, tokenizer: VQVAE, latents: Tensor, count: int, first: bool) -> Tensor:
        """latents [B, C, G, G] -> codes [count, C]: residuals of all scales, a little displaced."""
        if first:  # no code has a meaning yet, so that every scale is asked for the whole
            tokenizer.quantize.embedding.weight.zero_()
        met = residual_cells(tokenizer.quantize, latents)
        pick = torch.randint(len(met), (count,), device=met.device)
        return met[pick] + 0.01 * met.std() * torch.randn(count, met.shape[1], device=met.device)


def residual_cells(quantizer, features: Tensor) -> Tensor:
    """What each scale is asked to quantise, [N, C], the same number of cells from every scale but the smallest."""
    rest, cells = features, []
    for k in range(len(quantizer.scales)):
        z = quantizer.shrink(rest, k)
        cells.append(z.flatten(0, 1))
        rest = rest - quantizer.contribution(quantizer.embedding(quantizer.nearest(z)), k)
    most = 2048
    return torch.cat([c[torch.randperm(len(c), device=c.device)[:most]] for c in cells])


def tokenizer_loss(tokenizer: VQVAE, heads: TrainingHeads, images: Tensor, masks: int) -> dict[str, Tensor]:
    """images [B, 3, R, R] in -1..1, of which the first `masks` are masks as images -> losses and what to watch."""
    features = tokenizer.features(images)
    quantised = heads.restart.before(tokenizer, features)
    quantized, ids, quantizer = tokenizer.quantize(features)
    if not quantised:
        quantized, quantizer = features, 0 * quantizer
    decoded = tokenizer.decode_features(quantized).float()
    losses = {"l1": F.l1_loss(decoded, images), "l2": F.mse_loss(decoded, images)}
    if heads.perceptual:
        losses["perceptual"] = heads.perceptual(decoded, images)
    if heads.discriminator is not None:
        losses |= heads.discriminator.losses(decoded, images, sum(losses.values()), tokenizer.decoder.conv_out.weight)
    used = tokenizer.quantize.count(ids)
    return losses | {
        "quantizer": quantizer,
        **({"_iou": iou_of_images(decoded[:masks], images[:masks])} if masks else {}),
        "_codes_used": heads.restart.after(ids),
        **{f"_codes_used_{side}": share for side, share in zip(tokenizer.quantize.scales, used, strict=True)},
    }


@torch.no_grad()
def iou_of_images(decoded: Tensor, truth: Tensor) -> Tensor:
    """The mean IoU of masks as images [B, 3, R, R] in -1..1."""
    return mask_iou(decoded.mean(1) > 0, truth[:, 0] > 0).mean()
