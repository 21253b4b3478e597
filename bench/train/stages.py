"""From a profile to a stage that is ready to run: data, method, validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.config import Profile, StageConfig
from bench.data.contamination import refuse_contamination
from bench.data.mixture import corpus_of, open_mixture
from bench.data.sampler import Sampler
from bench.distributed import SINGLE_PROCESS, DistributedContext
from bench.train import settings
from bench.train.checkpoints import checkpoints, clean_up
from bench.train.folders import DONE, model_of_stage, needed_stages, stage_folder
from bench.train.loop import LOGS, Run, run_stage
from methods.base import Trainee, UserError
from methods.files import lock, write_atomic, writing
from methods.precision import left_in_files
from methods.registry import resolve, stage_spec

Validate = Callable[[Profile, StageConfig], Callable[[Trainee], dict[str, float]] | None]
LOCK = ".lock"  # held while a stage is trained


def seeded(profile: Profile, name: str) -> StageConfig:
    """The stage with the profile's seed added to its own."""
    return replace(profile.stages[name], seed=profile.seed + profile.stages[name].seed)


def finished_model(profile: Profile, name: str) -> Path | None:
    """The model of a stage that was trained to its end, None if it was not; no training data is needed.

    Raises UserError if the stage, or one that it builds on, was made with other settings than the profile's. Data may
    differ: a model can be asked about other images than it has learnt from.
    """
    if not model_of_stage(profile, name).is_dir():
        return None
    for each in needed_stages(profile, name):
        settings.compare(stage_folder(profile, each), {"stages": {each: settings.recipe_of(seeded(profile, each))}})
    clean_up(stage_folder(profile, name))
    return model_of_stage(profile, name)


def train_stage(
    profile: Profile,
    name: str,
    text: str,
    device: torch.device,
    context: DistributedContext = SINGLE_PROCESS,
    validate: Validate | None = None,
) -> Path:
    """Run one stage to its end and return its model's folder; a finished stage returns at once.

    text: the resolved profile, kept beside the run. validate: makes what measures the method while it trains.
    Raises UserError if the stage was begun with other settings.
    """
    folder, stage = stage_folder(profile, name), seeded(profile, name)
    config = model_config(profile, stage)
    made_with = settings.settings_of(profile, name, stage, config)
    if (folder / DONE).is_dir():
        settings.compare(folder, made_with)
        clean_up(folder)
        return folder / DONE
    with _alone(folder, context):
        return _train(profile, name, text, device, context, validate, config, made_with)


@contextmanager
def _alone(folder: Path, context: DistributedContext) -> Iterator[None]:
    """Keep other commands from training the stage in a folder. Raises UserError if one does, or if what lies in the
    folder is not of a training."""
    if not context.first:
        yield
        return
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    begun = (folder / settings.FILE).exists() or checkpoints(folder)
    if not begun and any((folder / each).exists() for each in (*LOGS, "config.yaml")):
        raise UserError(f"{folder}: holds files of another origin, which nothing may replace; give another runs=.")
    with writing(folder / LOCK), (folder / LOCK).open("a") as handle:
        lock(handle, folder / LOCK, "wait for it to end, or give another runs= folder")
        yield


def _train(
    profile: Profile, name: str, text: str, device: torch.device, context: DistributedContext,
    validate: Validate | None, config: dict[str, object], made_with: dict[str, Any],
) -> Path:  # fmt: skip
    folder, stage = stage_folder(profile, name), seeded(profile, name)
    begun = (folder / DONE).is_dir() or bool(checkpoints(folder))
    if begun:
        settings.compare(folder, made_with)
    if (folder / DONE).is_dir():  # another command has completed it since
        return folder / DONE
    sources = open_mixture(profile, stage)
    refuse_contamination(profile, sources)
    with left_in_files() if profile.train.zero else nullcontext():
        method = resolve(stage_spec(stage.method, stage.stage).trainee).build(config, corpus_of(sources))
    order = Sampler(sources, stage.images_per_step, stage.expressions_per_image, stage.seed)
    run = Run(
        name, folder, method, order, stage, profile.train, validate(profile, stage) if validate else None, context
    )
    if context.first:
        if not begun:
            settings.keep(folder, made_with)
        write_atomic(folder / "config.yaml", text)
    return run_stage(run, device)


def model_config(profile: Profile, stage: StageConfig) -> dict[str, object]:
    """The stage's `model` with `stage:NAME` replaced by the folder of that stage's model."""
    config: dict[str, object] = {"seed": stage.seed}
    for key, value in stage.model.items():
        if isinstance(value, str) and value.startswith("stage:"):
            value = model_of_stage(profile, value[6:])
            if not value.is_dir():
                raise UserError(f"{value} is missing: train stage {value.parent.name} first (`genseg train`).")
        config[key] = str(value) if isinstance(value, Path) else value
    return config
