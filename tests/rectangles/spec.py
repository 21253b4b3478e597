"""What the harness knows of the rectangle writer. Imports no torch."""

from dataclasses import dataclass, field

from methods.base import MethodSpec, StageSpec
from methods.files import setting

MODEL = "rectangles.model:Rectangles"


@dataclass
class ModelStage:
    """`backbone`: folder of an InternVL model, or random:SIZE with `texts`; `side`: of the grid, in cells."""

    seed: int = 0
    backbone: str = ""
    texts: list[str] = field(default_factory=list)
    side: int = setting(32, 2, 1024)


STAGES = {"joint": StageSpec(MODEL, ModelStage, tasks=("segment",), losses=("text",))}
SPEC = MethodSpec("rectangles", "Rectangles", MODEL, STAGES, estimate="methods.internvl.cost:estimate")
