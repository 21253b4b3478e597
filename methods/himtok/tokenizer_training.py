"""Stage 1: training the mask tokenizer itself, which nobody has released.

Half of each batch is decoded from all tokens and compared with the sharp mask; the other half from a random prefix
and compared with the mask blurred as in the hierarchical loss, so that order comes to mean coarse to fine.
The first `warmup` steps pass the latents on unquantised: quantising the latents of an untrained encoder lets the
decoder ignore them and the code book collapse. Then all codes are placed on latents that were seen, and codes that no
mask chose for a while are placed there again (dead-code revival).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from methods.base import Example, TrainingSample, mask_of
from methods.common.augment import augmented
from methods.common.codebook_restart import CodebookRestart
from methods.common.config import RestartConfig
from methods.common.masks import mask_iou
from methods.himtok.config import MaskTokenizerConfig, TokenizerStage
from methods.himtok.hierarchy import blurred, draw_levels, mask_loss
from methods.himtok.mask_tokenizer import MaskTokenizer, preprocess_mask
from methods.internvl.mask_tokenizer_stage import MaskTokenizerStage
from methods.internvl.model import made


class MaskProcessor:
    """methods.base.Processor of stage 1: masks and nothing else."""

    def __init__(self, config: MaskTokenizerConfig):
        self.masks = config

    def prepare(self, example: Example, task: str, rng: np.random.Generator) -> TrainingSample:
        where = f"{example.dataset} sample {example.ref_id}"
        return TrainingSample([], [], masks=[preprocess_mask(mask_of(example), self.masks.resolution, where)])

    def collate(self, samples: Sequence[TrainingSample], pack: bool = False) -> dict[str, Any]:
        """Masks [B, 1, R, R]."""
        masks = [mask for sample in samples for mask in sample.masks]
        return {"masks": torch.from_numpy(np.stack(masks))[:, None]}


class MaskTokenizerTraining(MaskTokenizerStage):
    """methods.base.Trainee of stage 1."""

    name, kind, sizes = "himtok", MaskTokenizer, MaskTokenizerConfig

    def __init__(
        self, mask_tokenizer: MaskTokenizer, restart: RestartConfig = RestartConfig(),  # noqa: B008
        augmentation: str = "none",
    ):  # fmt: skip
        heads = LatentRestart(mask_tokenizer.size, **asdict(restart))
        super().__init__(mask_tokenizer, MaskProcessor(mask_tokenizer.config), heads, augmentation)

    @classmethod
    def build(cls, config: Mapping[str, Any], corpus: Callable[[], Iterable[str]]) -> Self:
        """See config.TokenizerStage."""
        stage = made(TokenizerStage, config)
        torch.manual_seed(stage.seed)
        if stage.start:
            tokenizer = cls.load(Path(stage.start))
        else:
            tokenizer = MaskTokenizer(stage.mask_tokenizer_config)
            tokenizer.initialise_from_scratch()
        return cls(tokenizer, stage.codebook_restart, stage.augmentation)

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        masks = augmented(batch["masks"], self.augmentation)
        return tokenizer_loss(self.mask_tokenizer, self.heads, masks, dice=1.0)


class LatentRestart(CodebookRestart):
    """Codes that nothing chose move to latents of the batch."""

    def fresh(self, tokenizer: MaskTokenizer, latents: Tensor, count: int, first: bool) -> Tensor:
        """latents [B, T, C] -> table rows [count, .] whose code vectors are unit latents, a little displaced."""
        unit = F.normalize(latents.flatten(0, 1), dim=-1)
        unit = unit[torch.randint(len(unit), (count,), device=unit.device)]
        unit = unit + 0.01 * torch.randn_like(unit)
        return torch.linalg.solve(tokenizer.quantize.embedding_proj.weight.float(), unit.T).T


def tokenizer_loss(tokenizer: MaskTokenizer, restart: LatentRestart, masks: Tensor, dice: float) -> dict[str, Tensor]:
    """masks [B, 1, R, R] in 0..1 -> losses "reconstruction" and "quantizer", and what is worth watching."""
    z = tokenizer.latents(masks)
    quantised = restart.before(tokenizer, z)
    codes, ids, quantizer = tokenizer.quantize(z)
    if not quantised:
        codes, quantizer = F.normalize(z.float(), dim=-1), 0 * quantizer
    tokens, count = tokenizer.length, len(masks)
    kept = torch.full((count,), tokens)
    kept[count // 2 :] = draw_levels(count - count // 2, tokens, replacement=True)
    kept = kept.to(masks.device)
    logits = tokenizer.logits(codes, kept)
    target = blurred(masks[:, 0], kept, tokens)
    with torch.no_grad():
        whole = max(1, count // 2)
        iou = mask_iou(logits[:whole] > 0, masks[:whole, 0] > 0.5).mean()
    reconstruction = mask_loss(logits, target, dice)
    return {
        "reconstruction": reconstruction,
        "quantizer": quantizer,
        "_iou": iou,
        "_codes_used": restart.after(ids),
    }
