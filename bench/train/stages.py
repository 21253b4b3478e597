"""From a profile to a stage that is ready to run: data, method, validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.config import Profile, StageConfig
from bench.data.cards import load_card, open_dataset
from bench.evaluate.metrics import box_iou
from bench.evaluate.plan import plan
from bench.evaluate.runner import round_trip
from bench.evaluate.shapes import shape_ious, shape_test
from bench.train import settings
from bench.train.leaks import refuse_leaks
from bench.train.loop import DONE, LOGS, Run, run_stage
from bench.train.order import Order
from bench.train.snapshot import clean_up, snapshots
from bench.train.sources import corpus_of, embedded, open_sources
from bench.train.world import ALONE, World
from methods.base import Request, Trainee, UserError
from methods.files import lock, write_atomic, writing
from methods.registry import resolve, stage_spec

SHAPES = 20  # masks of each kind of the shape test in a validation
LOCK = ".lock"  # held while a stage is trained


def stage_folder(profile: Profile, name: str) -> Path:
    return profile.runs_dir / name


def model_of_stage(profile: Profile, name: str) -> Path:
    """Where a finished stage keeps its model."""
    return stage_folder(profile, name) / DONE


def seeded(profile: Profile, name: str) -> StageConfig:
    """The stage with the profile's seed added to its own."""
    return replace(profile.stages[name], seed=profile.seed + profile.stages[name].seed)


def finished_model(profile: Profile, name: str) -> Path | None:
    """The model of a stage that was trained to its end, None if it was not; no training data is needed.

    Raises UserError if the stage, or one that it builds on, was made with other settings than the profile's. Data may
    differ: a model can be asked about other pictures than it has learnt from.
    """
    if not model_of_stage(profile, name).is_dir():
        return None
    for each in needed_stages(profile, name):
        settings.compare(stage_folder(profile, each), {"stages": {each: settings.recipe_of(seeded(profile, each))}})
    clean_up(stage_folder(profile, name))
    return model_of_stage(profile, name)


def train_stage(profile: Profile, name: str, text: str, device: torch.device, world: World = ALONE) -> Path:
    """Run one stage to its end and return its model's folder; a finished stage returns at once.

    text: the resolved profile, kept beside the run. Raises UserError if the stage was begun with other settings.
    """
    folder, stage = stage_folder(profile, name), seeded(profile, name)
    config = model_config(profile, stage)
    made_with = settings.settings_of(profile, name, stage, config)
    if (folder / DONE).is_dir():
        settings.compare(folder, made_with)
        clean_up(folder)
        return folder / DONE
    with _alone(folder, world):
        return _train(profile, name, text, device, world, config, made_with)


@contextmanager
def _alone(folder: Path, world: World) -> Iterator[None]:
    """Keep other commands from training the stage in a folder. Raises UserError if one does, or if what lies in the
    folder is not of a training."""
    if not world.first:
        yield
        return
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    begun = (folder / settings.FILE).exists() or snapshots(folder)
    if not begun and any((folder / each).exists() for each in (*LOGS, "config.yaml")):
        raise UserError(f"{folder}: holds files of another origin, which nothing may replace; give another runs=.")
    with writing(folder / LOCK), (folder / LOCK).open("a") as handle:
        lock(handle, folder / LOCK, "wait for it to end, or give another runs= folder")
        yield


def _train(
    profile: Profile, name: str, text: str, device: torch.device, world: World, config: dict[str, object],
    made_with: dict[str, Any],
) -> Path:  # fmt: skip
    folder, stage = stage_folder(profile, name), seeded(profile, name)
    begun = (folder / DONE).is_dir() or bool(snapshots(folder))
    if begun:
        settings.compare(folder, made_with)
    if (folder / DONE).is_dir():  # another command has completed it since
        return folder / DONE
    sources = open_sources(profile, stage)
    refuse_leaks(profile, sources)
    method = resolve(stage_spec(stage.method, stage.stage).trainee).build(config, corpus_of(sources))
    order = Order(sources, stage.images, stage.per_image, stage.seed)
    run = Run(name, folder, method, order, stage, profile.train, validation(profile, stage), world)
    if world.first:
        if not begun:
            settings.keep(folder, made_with)
        write_atomic(folder / "config.yaml", text)
    return run_stage(run, device)


def needed_stages(profile: Profile, name: str) -> list[str]:
    """The stage and all that it builds on, in the order in which they must run."""
    order: list[str] = []
    for value in profile.stages[name].model.values():
        if isinstance(value, str) and value.startswith("stage:"):
            order += [s for s in needed_stages(profile, value[6:]) if s not in order]
    return [*order, name]


def model_config(profile: Profile, stage: StageConfig) -> dict[str, object]:
    """The stage's `model` with `stage:NAME` replaced by the folder of that stage's model."""
    config: dict[str, object] = {"seed": stage.seed}
    for key, value in stage.model.items():
        if isinstance(value, str) and value.startswith("stage:"):
            value = model_of_stage(profile, value[6:])
            if not value.is_dir():
                raise UserError(f"{value} is missing: train stage {value.parent.name} first (`genseg train`).")
        config[key] = value
    return config


def eval_root(profile: Profile) -> Path:
    """Where the evaluation splits are."""
    return Path(profile.data.root) / "eval" if is_embedded(profile) else Path(profile.data.root)


def is_embedded(profile: Profile) -> bool:
    """Whether the dataset that the profile evaluates on is built here."""
    return embedded(profile.data.dataset)


def validation(profile: Profile, stage: StageConfig) -> Callable[[Trainee], dict[str, float]] | None:
    """A function that measures a method on the first samples of the validation split, without touching training; None
    if the dataset has no such split or no samples are wanted.

    Stages that train a mask tokenizer are measured by its reconstructions, also of the shape test's masks, the others
    by their answers.
    """
    split, count = profile.train.validate_split, profile.train.validate_samples
    if not count or split not in load_card(profile.data.dataset).splits:
        return None
    data = profile.data
    dataset = open_dataset(data.dataset, eval_root(profile), split, images=data.images, split_by=data.split_by)
    questions = plan(dataset, "per_expression", 3 * count)[::3][:count]
    alone = stage_spec(stage.method, stage.stage).mask_tokenizer
    dataset.check([question.index for question in questions])  # now, not when the first validation is due
    shapes = shape_test(SHAPES) if alone else []
    device_type = "cpu" if not torch.cuda.is_available() else "cuda"

    def measure(method: Trainee) -> dict[str, float]:
        with torch.random.fork_rng(devices=[]), torch.autocast(device_type, enabled=False):
            examples = [dataset[q.index] for q in questions]
            if alone:
                predictions = round_trip(method.mask_tokenizer, examples, method.mask_tokenizer.length)
            else:
                requests = [
                    Request(e.image, q.expressions, ("mask", "box")) for e, q in zip(examples, questions, strict=True)
                ]
                predictions = [p for i in range(0, count, 16) for p in method.segment(requests[i : i + 16])]
        pairs = list(zip(predictions, examples, strict=True))
        inter = np.array([(p.mask & e.mask).sum() for p, e in pairs])
        union = np.array([(p.mask | e.mask).sum() for p, e in pairs])
        # an empty mask agrees with an empty ground truth only if it was written
        answered = np.array([p.failure is None or bool(p.token_ids) for p in predictions], float)
        iou = np.where(union > 0, inter / np.maximum(1, union), answered)
        values = {"ciou": float(inter.sum() / max(1, union.sum())), "giou": float(iou.mean())}
        if alone:
            values |= {
                f"shapes/{name}": float(iou.mean()) for name, iou in shape_ious(method.mask_tokenizer, shapes).items()
            }
        else:
            boxes = np.array([box_iou(p.box, e.box) for p, e in pairs])
            values |= {f"acc@{t}": float((boxes >= t).mean()) for t in (0.5, 0.7, 0.9)}
            values["failures"] = float(sum(p.failure is not None for p in predictions))
        return values

    return measure
