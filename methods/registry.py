"""Names of methods. A further method is one folder and one line here."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from methods.base import MethodSpec, Reference, StageSpec, UserError
from methods.files import quoted, read_object

METHODS: dict[str, Reference] = {
    "boxes": "methods.boxes.spec:SPEC",
    "himtok": "methods.himtok.spec:SPEC",
    "argenseg": "methods.argenseg.spec:SPEC",
    "textpolygon": "methods.textmask.spec:POLYGON",
    "textrows": "methods.textmask.spec:ROWS",
    "segtoken": "methods.segtoken.spec:SPEC",
}


def method_spec(name: str) -> MethodSpec:
    """What the method called name declares; imports no torch. Raises UserError for an unknown one."""
    if name not in METHODS:
        raise UserError(f"There is no method called {name!r}; choose one of {', '.join(METHODS)}.")
    return resolve(METHODS[name])


def stage_spec(method: str, stage: str) -> StageSpec:
    """What a method declares of one of its training stages. Raises UserError for a stage that it lacks."""
    stages = method_spec(method).stages
    if stage not in stages:
        raise UserError(f"{method} has no stage called {stage!r}; choose one of {', '.join(stages)}.")
    return stages[stage]


def model_stage(method: str) -> StageSpec:
    """The first stage that trains the class which answers requests."""
    spec = method_spec(method)
    return next(stage for stage in spec.stages.values() if stage.trainee == spec.model)


def backbone_sizes() -> tuple[str, ...]:
    """The names of the backbone's sizes, small ones first."""
    return tuple(resolve("methods.internvl.config:SIZES"))


def backbone_size_of(folder: Path) -> str:
    """The name of the backbone's size in a checkpoint's folder, by its config.json; "" if it is none of the named."""
    settings = read_object(folder / "config.json", "copy it again from where the checkpoint came from")
    return resolve("methods.internvl.config:size_name")(settings)


def method_class(name: str) -> Any:
    """The class of a method's models (methods.base.Model), imported on demand."""
    return resolve(method_spec(name).model)


def method_of(folder: Path) -> str:
    """The method whose model a folder holds, by its config.json: in our layout or an official one. Imports no torch.

    Raises UserError if it is none of them.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: holds no config.json; give the folder of a checkpoint.")
    settings = read_object(path, "copy it again from where the checkpoint came from")
    named, architectures = settings.get("method"), settings.get("architectures")
    for name in METHODS:
        if named == name or (named is None and architectures in [[each] for each in method_spec(name).architectures]):
            return name
    told = quoted(named if named is not None else architectures)
    raise UserError(f"{folder}: holds a model of {told}; known are the models of {', '.join(METHODS)}.")


def resolve(reference: Reference) -> Any:
    """What a "package.module:name" names; without a name, the module."""
    module, _, attribute = reference.partition(":")
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found
