"""What the harness knows of masks as text: a method for each notation."""

from methods.base import MethodSpec, StageSpec
from methods.textmask.config import ModelStage, PolygonStage, RowsStage

TASKS = ("segment", "segment_tokens", "box", "caption", "question", "conversation")


def _spec(name: str, title: str, model: str, stage: type[ModelStage]) -> MethodSpec:
    return MethodSpec(
        name=name,
        title=title,
        model=model,
        stages={"joint": StageSpec(model, stage, TASKS, losses=("text",))},
        wants=("mask", "box", "text"),
        int8=True,
        estimate="methods.textmask.cost:estimate",
        answering="methods.textmask.cost:answering",
    )


POLYGON = _spec("textpolygon", "Polygon", "methods.textmask.model:PolygonModel", PolygonStage)
ROWS = _spec("textrows", "Rows", "methods.textmask.model:RowsModel", RowsStage)
