"""What a profile may say of a model that writes masks as text. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from methods.base import UserError
from methods.files import setting
from methods.internvl.config import ContinuedStage, ProcessorConfig

BUDGETS = {"polygon": (8, 16, 32, 64), "rows": (16, 24, 32)}  # points of an answer, or cells along a side of the grid


@dataclass(frozen=True)
class MaskTokenizerConfig:
    """notation: "polygon" or "rows". budget: the largest one, of BUDGETS. resolution: side of the square on which masks
    are read and drawn. parts: most separate parts of a polygon, and most holes. runs: most runs of a row."""

    notation: str = setting("polygon", choices=tuple(BUDGETS))
    budget: int = 32
    resolution: int = setting(256, 16, 4096)
    parts: int = setting(3, 1, 16)
    runs: int = setting(4, 1, 16)

    def __post_init__(self) -> None:
        if self.budget not in BUDGETS[self.notation]:
            known = ", ".join(map(str, BUDGETS[self.notation]))
            raise UserError(f"There is no budget {self.budget} of {self.notation}; choose one of {known}.")

    @property
    def budgets(self) -> tuple[int, ...]:
        """All budgets that the model may be asked for, the largest last."""
        return tuple(each for each in BUDGETS[self.notation] if each <= self.budget)


@dataclass
class ModelStage(ContinuedStage):
    """`start`; or `backbone` (folder of an InternVL model, or random:SIZE with `vocabulary` and `texts`) and
    `mask_tokenizer_config`. With both the processor's choices."""

    NEW: ClassVar[tuple[str, ...]] = ("backbone", "vocabulary", "texts", "mask_tokenizer_config")
    backbone: str = ""
    vocabulary: int = 0
    texts: list[str] = field(default_factory=list)
    processor: ProcessorConfig = field(default_factory=ProcessorConfig)
    mask_tokenizer_config: MaskTokenizerConfig = field(default_factory=MaskTokenizerConfig)
