"""A mask tokenizer in its own training stage: what is the same for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from methods.internvl import checkpoint


class MaskTokenizerStage(nn.Module):
    """methods.base.Trainee of a mask tokenizer alone; subclasses add `build` and `loss`.

    heads: what only training needs, never saved with the model. kind, config: the tokenizer's class, and that of its
    sizes.
    """

    name: ClassVar[str]
    kind: ClassVar[Callable[[Any], Any]]
    sizes: ClassVar[type]
    stages: ClassVar[tuple[str, ...]] = ("tokenizer",)

    def __init__(self, mask_tokenizer: Any, processor: Any, heads: nn.Module, augmentation: str = "none"):
        super().__init__()
        self.augmentation = augmentation  # one of methods.common.config.AUGMENTATIONS
        self.mask_tokenizer, self.processor, self.heads = mask_tokenizer, processor, heads

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def enter_stage(self, stage: str) -> None:
        self.requires_grad_(True)

    def config(self) -> dict[str, Any]:
        return checkpoint.describe_mask_tokenizer(self.name, self.mask_tokenizer.config)

    def save_pretrained(self, folder: Path, dtype: str = "float32", max_shard_size: str = "5GB") -> None:
        checkpoint.save(self, Path(folder), dtype, max_shard_size)

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        return cls(cls.load(folder)).eval()

    @classmethod
    def load(cls, folder: Path) -> Any:
        """The mask tokenizer of a folder of this stage, or of a whole model's."""

        def build(config: Mapping[str, Any]) -> Any:
            return cls.kind(checkpoint.part(config, "mask_tokenizer", cls.sizes, folder))

        return checkpoint.load_part(Path(folder), cls.name, "mask_tokenizer.", build)
