"""What the harness knows of masks that a hidden state prompts."""

from methods.base import MethodSpec, StageSpec
from methods.segtoken.config import ModelStage

MODEL = "methods.segtoken.model:SegToken"
TASKS = ("segment", "box", "caption", "question", "conversation")

SPEC = MethodSpec(
    name="segtoken",
    title="[SEG] token",
    model=MODEL,
    stages={"joint": StageSpec(MODEL, ModelStage, TASKS, losses=("text", "bce", "dice"))},
    wants=("mask", "box", "text"),
    int8=True,
    estimate="methods.segtoken.cost:estimate",
    answering="methods.segtoken.cost:answering",
)
