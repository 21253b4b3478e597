"""What the harness knows of HiMTok."""

from pathlib import Path

from methods.base import MethodSpec, StageSpec
from methods.himtok.config import TASKS, ModelStage, TokenizerStage

MODEL = "methods.himtok.model:HiMTok"

SPEC = MethodSpec(
    name="himtok",
    title="HiMTok",
    model=MODEL,
    stages={
        "tokenizer": StageSpec(
            "methods.himtok.tokenizer_training:MaskTokenizerTraining", TokenizerStage, tasks=("segment",),
            losses=("reconstruction", "quantizer"), mask_tokenizer=True,
        ),
        "align": StageSpec(MODEL, ModelStage, TASKS, losses=("text", "mask", "hierarchy", "prefix")),
        "tune": StageSpec(MODEL, ModelStage, TASKS, losses=("text",)),
    },
    wants=("mask", "box", "choice", "choices", "text"),
    given=("mask", "box", "points"),
    adaptive_length="methods.himtok.adaptive_length:length_curve",
    int8=True,
    estimate="methods.himtok.cost:estimate",
    answering="methods.himtok.cost:answering",
    reference_checks=("methods.himtok.parity",),
    convert="methods.himtok.state_dict:convert",
    official="methods.himtok.state_dict:official",
    refiner="methods.himtok.refine:Refiner",
    releases={"checkpoint": "yayafengzi/InternVL2_5-HiMTok-8B of Hugging Face"},
    protocols=Path(__file__).with_name("protocols.yaml"),
    architectures=("InternVLWithHiMTok",),
)  # fmt: skip
