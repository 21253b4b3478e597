"""What the harness knows of ARGenSeg."""

from pathlib import Path

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
    wants=("mask", "box", "text"),
    image_generation=True,
    int8=True,
    estimate="methods.argenseg.cost:estimate",
    answering="methods.argenseg.cost:answering",
    reference_checks=("methods.argenseg.parity",),
    convert="methods.argenseg.state_dict:convert",
    reference_model="methods.argenseg.parity_model:reference_model",
    official="methods.argenseg.state_dict:official",
    releases={
        "checkpoint": "inclusionAI/ARGenSeg-8B of Hugging Face",
        "mask_tokenizer": "vae_ch160v4096z32.pth of FoundationVision/var of Hugging Face",
    },
    protocols=Path(__file__).with_name("protocols.yaml"),
    architectures=("InternVLGenSeg",),
)  # fmt: skip
