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
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.base import Example, TrainingSample
from methods.common.augment import augmented, check_augmentation
from methods.common.masks import mask_of
from methods.himtok.config import MaskTokenizerConfig, RestartConfig, TokenizerStage
from methods.himtok.hierarchy import blurred, draw_levels, mask_loss
from methods.himtok.mask_tokenizer import MaskTokenizer, preprocess_mask
from methods.internvl import checkpoint
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


class MaskTokenizerTraining(nn.Module):
    """methods.base.Trainee of stage 1."""

    name: ClassVar[str] = "himtok"
    stages: ClassVar[tuple[str, ...]] = ("tokenizer",)

    def __init__(
        self, mask_tokenizer: MaskTokenizer, restart: RestartConfig = RestartConfig(),  # noqa: B008
        augmentation: str = "none",
    ):  # fmt: skip
        super().__init__()
        self.augmentation = check_augmentation(augmentation)
        self.mask_tokenizer = mask_tokenizer
        self.processor = MaskProcessor(mask_tokenizer.config)
        self.heads = CodebookRestart(mask_tokenizer.size, **asdict(restart))

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @classmethod
    def build(cls, config: Mapping[str, Any], corpus: Callable[[], Iterable[str]]) -> Self:
        """See config.TokenizerStage."""
        stage = made(TokenizerStage, config)
        torch.manual_seed(stage.seed)
        if stage.start:
            tokenizer = load_mask_tokenizer(Path(stage.start))
        else:
            tokenizer = MaskTokenizer(stage.mask_tokenizer_config)
            tokenizer.initialise_from_scratch()
        return cls(tokenizer, stage.codebook_restart, stage.augmentation)

    def enter_stage(self, stage: str) -> None:
        self.requires_grad_(True)

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        masks = augmented(batch["masks"], self.augmentation)
        return tokenizer_loss(self.mask_tokenizer, self.heads, masks, dice=1.0)

    def config(self) -> dict[str, Any]:
        return checkpoint.describe_mask_tokenizer(self.name, self.mask_tokenizer.config)

    def save_pretrained(self, folder: Path, dtype: str = "float32", max_shard_size: str = "5GB") -> None:
        checkpoint.save(self, Path(folder), dtype, max_shard_size)

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        return cls(load_mask_tokenizer(Path(folder))).eval()


def load_mask_tokenizer(folder: Path) -> MaskTokenizer:
    """The mask tokenizer of a stage-1 folder, or of a whole model's."""

    def build(config: Mapping[str, Any]) -> MaskTokenizer:
        return MaskTokenizer(checkpoint.part(config, "mask_tokenizer", MaskTokenizerConfig, folder))

    return checkpoint.load_part(folder, MaskTokenizerTraining.name, "mask_tokenizer.", build)


class CodebookRestart(nn.Module):
    """Counts how often each code was chosen and places the unused ones; lives only while stage 1 trains.

    warmup: steps before the first placement, of all codes; every: steps between the later ones, of those that nothing
    chose. placed: the codes are trained ones, so that a first placement is not due.
    """

    def __init__(self, codes: int, warmup: int = 300, every: int = 50, placed: bool = False):
        super().__init__()
        self.warmup, self.every = warmup, every
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.register_buffer("hits", torch.full((codes,), float(placed)))

    @torch.no_grad()
    def before(self, tokenizer: MaskTokenizer, z: Tensor) -> bool:
        """Place codes if their time has come -> whether this step quantises.

        z [B, T, D] are the batch's latents. Must run before the codes take part in the graph.
        """
        step = int(self.step) - self.warmup
        self.step += 1
        if step >= 0 and step % self.every == 0:
            dead = (self.hits == 0).nonzero().flatten()
            fresh = F.normalize(z.detach().float().flatten(0, 1), dim=-1)
            fresh = fresh[torch.randint(len(fresh), (len(dead),), device=z.device)]
            fresh = fresh + 0.01 * torch.randn_like(fresh)
            quantizer = tokenizer.quantize
            placed = torch.linalg.solve(quantizer.embedding_proj.weight.float(), fresh.T).T
            quantizer.embedding.weight[dead] = placed.to(quantizer.embedding.weight)
            if torch.distributed.is_initialized():  # every process has drawn its own latents
                torch.distributed.broadcast(quantizer.embedding.weight.data, 0)
            self.hits.zero_()
        return step >= 0

    @torch.no_grad()
    def after(self, ids: Tensor) -> Tensor:
        """Count a batch's ids [B, T], of all processes -> the share of codes used since the last placement."""
        hits = torch.bincount(ids.flatten(), minlength=len(self.hits)).to(self.hits)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(hits)
        self.hits += hits
        return (self.hits > 0).float().mean()


def tokenizer_loss(tokenizer: MaskTokenizer, restart: CodebookRestart, masks: Tensor, dice: float) -> dict[str, Tensor]:
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
        predicted, truth = logits[:whole] > 0, masks[:whole, 0] > 0.5
        union = (predicted | truth).flatten(1).sum(1).clamp(min=1)
        iou = ((predicted & truth).flatten(1).sum(1) / union).mean()
    reconstruction = mask_loss(logits, target, dice)
    return {
        "reconstruction": reconstruction,
        "quantizer": quantizer,
        "_iou": iou,
        "_codes_used": restart.after(ids),
    }
