"""What a profile may say of a model that writes masks as text. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from methods.base import UserError
from methods.files import setting
from methods.internvl.config import ContinuedStage, ProcessorConfig


@dataclass(frozen=True)
class MaskTokenizerConfig:
    """What both notations have. budget: the largest one, of KNOWN. resolution: side of the square on which masks are
    read and drawn."""

    NAME: ClassVar[str]
    KNOWN: ClassVar[tuple[int, ...]]
    budget: int = 32
    resolution: int = setting(256, 16, 4096)

    def __post_init__(self) -> None:
        if self.budget not in self.KNOWN:
            known = ", ".join(map(str, self.KNOWN))
            raise UserError(f"There is no budget {self.budget} of {self.NAME}; choose one of {known}.")

    @property
    def budgets(self) -> tuple[int, ...]:
        """All budgets that the model may be asked for, the largest last."""
        return tuple(each for each in self.KNOWN if each <= self.budget)


@dataclass(frozen=True)
class PolygonConfig(MaskTokenizerConfig):
    """A budget is a number of points. parts: most separate parts, and most holes."""

    NAME: ClassVar[str] = "polygon"
    KNOWN: ClassVar[tuple[int, ...]] = (8, 16, 32, 64)
    parts: int = setting(3, 1, 16)


@dataclass(frozen=True)
class RowsConfig(MaskTokenizerConfig):
    """A budget is the number of cells along a side of the grid. runs: most runs of a row."""

    NAME: ClassVar[str] = "rows"
    KNOWN: ClassVar[tuple[int, ...]] = (16, 24, 32)
    runs: int = setting(4, 1, 16)


@dataclass
class ModelStage(ContinuedStage):
    """`start`; or `backbone` (folder of an InternVL model, or random:SIZE with `vocabulary` and `texts`) and
    `mask_tokenizer_config`. With both the processor's choices."""

    NEW: ClassVar[tuple[str, ...]] = ("backbone", "vocabulary", "texts", "mask_tokenizer_config")
    backbone: str = ""
    vocabulary: int = 0
    texts: list[str] = field(default_factory=list)
    processor: ProcessorConfig = field(default_factory=ProcessorConfig)


@dataclass
class PolygonStage(ModelStage):
    mask_tokenizer_config: PolygonConfig = field(default_factory=PolygonConfig)


@dataclass
class RowsStage(ModelStage):
    mask_tokenizer_config: RowsConfig = field(default_factory=RowsConfig)
