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
from typing import Any, ClassVar, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from methods.argenseg.config import (
    DiscriminatorConfig,
    MaskTokenizerConfig,
    PerceptualConfig,
    RestartConfig,
    TokenizerStage,
)
from methods.argenseg.discriminator import Discriminator
from methods.argenseg.mask_tokenizer import VQVAE
from methods.argenseg.masks import preprocess_mask
from methods.argenseg.perceptual import Perceptual
from methods.base import Example, TrainingSample, open_image
from methods.common.augment import augmented, check_augmentation
from methods.internvl import checkpoint
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


class ImageTokenizerTraining(nn.Module):
    """methods.base.Trainee of the tokenizer's stage."""

    name: ClassVar[str] = "argenseg"
    stages: ClassVar[tuple[str, ...]] = ("tokenizer",)

    def __init__(
        self, mask_tokenizer: VQVAE, restart: RestartConfig = RestartConfig(),  # noqa: B008
        perceptual: PerceptualConfig | None = None, adversarial: DiscriminatorConfig | None = None,
        augmentation: str = "none",
    ):  # fmt: skip
        super().__init__()
        self.augmentation = check_augmentation(augmentation)
        self.mask_tokenizer = mask_tokenizer
        self.processor = ImageProcessor(mask_tokenizer.config)
        self.heads = TrainingHeads(mask_tokenizer, restart, perceptual, adversarial)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @classmethod
    def build(cls, config: Mapping[str, Any], corpus: Callable[[], Iterable[str]]) -> Self:
        """See config.TokenizerStage."""
        stage = made(TokenizerStage, config)
        torch.manual_seed(stage.seed)
        masks = load_mask_tokenizer(Path(stage.start)) if stage.start else VQVAE(stage.mask_tokenizer_config)
        return cls(masks, stage.codebook_restart, stage.perceptual, stage.adversarial, stage.augmentation)

    def enter_stage(self, stage: str) -> None:
        self.requires_grad_(True)

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        images = with_augmented_masks(batch["images"], batch["masks"], self.augmentation)
        return tokenizer_loss(self.mask_tokenizer, self.heads, images, batch["masks"])

    def config(self) -> dict[str, Any]:
        return checkpoint.describe_mask_tokenizer(self.name, self.mask_tokenizer.config)

    def save_pretrained(self, folder: Path, dtype: str = "float32", max_shard_size: str = "5GB") -> None:
        checkpoint.save(self, Path(folder), dtype, max_shard_size)

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        return cls(load_mask_tokenizer(Path(folder))).eval()


def load_mask_tokenizer(folder: Path) -> VQVAE:
    """The VQ-VAE of a tokenizer stage's folder, or of a whole model's."""

    def build(config: Mapping[str, Any]) -> VQVAE:
        return VQVAE(checkpoint.part(config, "mask_tokenizer", MaskTokenizerConfig, folder))

    return checkpoint.load_part(folder, ImageTokenizerTraining.name, "mask_tokenizer.", build)


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
        self.restart = CodebookRestart(tokenizer.size, **asdict(restart))
        self.perceptual = None if perceptual is None else Perceptual(**asdict(perceptual))
        self.discriminator = None if adversarial is None else Discriminator(tokenizer.resolution, **asdict(adversarial))


class CodebookRestart(nn.Module):
    """Places codes on vectors that the quantiser met, first after `warmup` unquantised passes, and moves the unused
    ones there again every `every` passes. placed: the codes are trained ones, so that a first placement is not due.

    A pass is a forward pass of all processes at once. All count the same hits and hold the same codes.
    """

    def __init__(self, codes: int, warmup: int = 200, every: int = 50, placed: bool = False):
        super().__init__()
        self.warmup, self.every, self.placed = warmup, every, placed
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.register_buffer("hits", torch.full((codes,), float(placed)))

    @torch.no_grad()
    def before(self, tokenizer: VQVAE, features: Tensor) -> bool:
        """Place codes if their time has come -> whether this step quantises.

        features [B, C, G, G] of this batch, before the codes take part in the graph.
        """
        step = int(self.step) - self.warmup
        self.step += 1
        if step >= 0 and step % self.every == 0:
            quantizer, dead = tokenizer.quantize, (self.hits == 0).nonzero().flatten()
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
        **({"_iou": mask_iou(decoded[:masks], images[:masks])} if masks else {}),
        "_codes_used": heads.restart.after(ids),
        **{f"_codes_used_{side}": share for side, share in zip(tokenizer.quantize.scales, used, strict=True)},
    }


@torch.no_grad()
def mask_iou(decoded: Tensor, truth: Tensor) -> Tensor:
    """The mean IoU of masks as images [B, 3, R, R] in -1..1."""
    predicted, true = decoded.mean(1) > 0, truth[:, 0] > 0
    union = (predicted | true).flatten(1).sum(1).clamp(min=1)
    return ((predicted & true).flatten(1).sum(1) / union).mean()
