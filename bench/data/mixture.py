"""The data that a stage trains on: one dataset, or the profile's mixture of several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.config import Profile, SourceConfig, StageConfig
from bench.data.cards import load_card, open_dataset
from bench.data.dataset import Dataset
from bench.data.perception import PERCEPTION_TASKS, PerceptionSet
from bench.data.readers.places import NotThere
from bench.data.sampler import MixtureComponent
from methods.base import UserError
from methods.registry import stage_spec

TEXT_TASKS = ("caption", "generate", "question")  # served by the captions of a dataset, the others by its referents
POINTING = ("box_to_mask", "points_to_mask", "mask_to_box")  # need no words
SERVED: dict[str, tuple[str, ...]] = {  # what a dataset serves -> its tasks; others serve all that need no text
    "texts": TEXT_TASKS, "conversations": ("conversation",), "boxes": ("box",), "objects": POINTING, "choices": (),
}  # fmt: skip
MASK_TASKS = ("segment", "segment_tokens")  # these alone can be served by a referent of nothing: its mask is empty


def component_configs(profile: Profile, stage: StageConfig | None = None) -> dict[str, SourceConfig]:
    """The sources of a stage (or all) with every default filled in; without a mixture `data` itself is the only one.

    A source serves those of the stage's tasks that its dataset can, or the tasks that it names itself. Raises UserError
    if there are none.
    """
    data = profile.data
    if not data.mixture:
        tasks = dict(stage.tasks) if stage else {}
        place = data.dataset, data.root, data.images, data.split_by
        return {"": SourceConfig(*place, tasks=tasks, level=data.level, train_scenes=data.train_scenes)}
    factors = stage.mixture if stage and stage.mixture else dict.fromkeys(data.mixture, 1.0)
    found = {}
    for name, factor in factors.items():
        if not factor:
            continue
        given = data.mixture[name]
        dataset = given.dataset or name
        tasks = given.tasks or {t: w for t, w in (stage.tasks if stage else {}).items() if serves(dataset, t)}
        if stage and not any(tasks.values()):
            raise UserError(
                f"Source {name} of the mixture serves none of the stage's tasks ({', '.join(stage.tasks)}); give it "
                f"tasks of its own (data.mixture.{name}.tasks) or leave it out of the stage's mixture."
            )
        found[name] = SourceConfig(
            dataset, given.root or data.root, given.images or (data.images if not given.root else ""),
            given.split_by or (data.split_by if dataset == data.dataset else ""), given.split, given.styles,
            given.repeat * factor, given.weight * factor, dict(tasks),
            given.level or data.level, given.train_scenes or data.train_scenes,
        )  # fmt: skip
    return found


def serves(dataset: str, task: str) -> bool:
    """Whether a dataset is made for a task; the embedded one is for all."""
    card = load_card(dataset)
    if card.kind == "synthetic":
        return task != "conversation"
    return task in SERVED[card.serves] if card.serves in SERVED else task not in (*TEXT_TASKS, "conversation")


def task_shares(profile: Profile, stage: StageConfig) -> dict[str, float]:
    """The share of each task among a stage's samples: by the sources' weights, or without weights (when it depends on
    the sizes of the data) the stage's own."""
    sources = component_configs(profile, stage).values()
    if not all(source.weight for source in sources):
        return {task: weight / sum(stage.tasks.values()) for task, weight in stage.tasks.items()}
    shares: dict[str, float] = {}
    for source in sources:
        for task, weight in source.tasks.items():
            share = weight / sum(source.tasks.values()) * source.weight / sum(s.weight for s in sources)
            shares[task] = shares.get(task, 0.0) + share
    return shares


def open_mixture(profile: Profile, stage: StageConfig) -> list[MixtureComponent]:
    """The sources of a stage, opened. Raises UserError listing those that are not there, each with its weight, unless
    the profile leaves them out (`data.skip_missing`) and others are left."""
    configs = component_configs(profile, stage)
    components, missing = [], {}
    for name, config in configs.items():
        try:
            datasets = _open(profile, stage, config)
        except NotThere as error:
            if not profile.data.mixture:
                raise
            missing[name] = error
            continue
        components.append(MixtureComponent(datasets, config.tasks, config.repeat, config.weight, name))
    if missing and not (profile.data.skip_missing and components):
        raise UserError(_told(configs, missing))
    return components


def _told(configs: Mapping[str, SourceConfig], missing: Mapping[str, NotThere]) -> str:
    """The sentence about the sources that are not there."""
    shares = {name: f"weight {c.weight:g}" if c.weight else f"repeat {c.repeat:g}" for name, c in configs.items()}
    listed = "; ".join(f"{name} ({shares[name]}: {str(error).rstrip('.')})" for name, error in missing.items())
    repair = "get them, or train without them with data.skip_missing=true"
    return f"{len(missing)} of {len(configs)} sources of the mixture are not there: {listed}; {repair}."


def _open(profile: Profile, stage: StageConfig, source: SourceConfig) -> dict[str, Dataset]:
    """The dataset behind each task of a source."""
    name, root = source.dataset, train_root(source)
    datasets: dict[str, Dataset] = {}
    text_tasks = [task for task in source.tasks if task in TEXT_TASKS]
    reader = None if load_card(name).serves == "texts" else "captions"  # the embedded dataset holds both
    for task in text_tasks:
        kinds = ("caption",) if task in ("caption", "generate") else ("question", "what", "colour", "count", "where")
        datasets[task] = open_dataset(name, root, source.split, reader=reader, kinds=kinds, images=source.images)
    if len(text_tasks) < len(source.tasks):
        # datasets of a mixture number their classes differently
        classes = "bucket" if profile.data.mixture else True
        spec = stage_spec(stage.method, stage.stage)
        semantic = classes if spec.semantic else False
        referents = open_dataset(  # a mask tokenizer learns from masks, whether their images are there or not
            name, root, source.split, with_images=not spec.mask_tokenizer, semantic=semantic, images=source.images,
            split_by=source.split_by, styles=source.styles,
        )  # fmt: skip
        for task in (task for task in source.tasks if task not in TEXT_TASKS):
            whole = task in MASK_TASKS or task == "conversation"
            datasets[task] = referents if whole else referents.with_targets()
            if task in PERCEPTION_TASKS:
                datasets[task] = PerceptionSet(datasets[task], several=task == "choose_several", seed=stage.seed)
    return datasets


def train_root(source: SourceConfig) -> Path:
    """The embedded dataset's training split has a folder of its own, so that its size does not touch the evaluation
    data; other datasets lie as they were downloaded."""
    if not embedded(source.dataset):
        return Path(source.root)
    return Path(source.root) / f"train-{source.train_scenes}"


def embedded(dataset: str) -> bool:
    """Whether a dataset is built here; others must have been downloaded by the user."""
    return load_card(dataset).kind == "synthetic"


def corpus_of(sources: Sequence[MixtureComponent]) -> Callable[[], Iterator[str]]:
    """The training texts, for a tokenizer that is trained from scratch: every sentence, question and answer once."""

    def texts() -> Iterator[str]:
        for dataset in dict.fromkeys(dataset for source in sources for dataset in source.datasets.values()):
            yield from dataset.texts()
        yield from (f"[[{a}, {b}, {c}, {d}]]" for a, b, c, d in np.random.default_rng(0).integers(0, 1000, (500, 4)))

    return texts
