"""What the harness knows of masks as text."""

from methods.base import MethodSpec, StageSpec
from methods.textmask.config import ModelStage

MODEL = "methods.textmask.model:TextMask"
TASKS = ("segment", "segment_tokens", "box", "caption", "question", "conversation")

SPEC = MethodSpec(
    name="textmask",
    title="Masks as text",
    model=MODEL,
    stages={"joint": StageSpec(MODEL, ModelStage, TASKS, losses=("text",))},
    wants=("mask", "box", "text"),
    int8=True,
    estimate="methods.textmask.cost:estimate",
    answering="methods.textmask.cost:answering",
)
