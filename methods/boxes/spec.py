"""What the harness knows of the backbone alone."""

from methods.base import MethodSpec, StageSpec
from methods.boxes.config import ModelConfig

MODEL = "methods.boxes.model:BoxesModel"

SPEC = MethodSpec(
    name="boxes",
    title="Boxes (backbone alone)",
    model=MODEL,
    stages={
        "pretrain": StageSpec(
            MODEL, ModelConfig, tasks=("box", "caption", "question", "conversation"),
            losses=("text", "dense", "semantic"), semantic=True,
        )
    },
    wants=("mask", "box", "text"),
    int8=True,
    estimate="methods.internvl.cost:estimate",
    reference_checks=("methods.internvl.parity",),
    convert="methods.internvl.checkpoint.native:convert",
    official="methods.internvl.checkpoint.native:official",
    architectures=("InternVLChatModel", "InternVLForConditionalGeneration"),
)  # fmt: skip
