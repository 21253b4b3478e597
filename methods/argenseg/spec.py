"""What the harness knows of ARGenSeg."""

from methods.argenseg.config import TASKS, ModelStage, TokenizerStage
from methods.base import MethodSpec, StageSpec

MODEL = "methods.argenseg.model:ARGenSeg"

SPEC = MethodSpec(
    name="argenseg",
    title="ARGenSeg",
    model=MODEL,
    stages={
        "tokenizer": StageSpec(
            "methods.argenseg.tokenizer_training:ImageTokenizerTraining", TokenizerStage, tasks=("segment",),
            losses=("l1", "l2", "quantizer", "perceptual", "adversarial", "discriminator"), mask_tokenizer=True,
        ),
        "joint": StageSpec(MODEL, ModelStage, TASKS, losses=("text", "visual", "bce", "dice")),
    },
    wants=("mask", "box"),
    image_generation=True,
    int8=True,
    estimate="methods.argenseg.cost:estimate",
    reference_checks=("methods.argenseg.parity",),
    convert="methods.argenseg.state_dict:convert",
    official="methods.argenseg.state_dict:official",
    architectures=("InternVLGenSeg",),
)  # fmt: skip
