"""What a stage was made with, kept beside it: its settings, its data, and the weights of the stages it builds on.

A stage that is there, finished or not, counts for the same settings alone. What decides only how fast a run goes and
what is seen of it stays out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.config import Profile, SourceConfig, StageConfig
from bench.data.mixture import component_configs, embedded
from bench.runtime import digest
from methods.base import UserError
from methods.files import printable, read_object, write_atomic

FILE = "settings.json"
MOST = 8  # differences that are told


def settings_of(profile: Profile, name: str, stage: StageConfig, config: Mapping[str, object]) -> dict[str, Any]:
    """All that decides a stage's result, by the profile's keys. config: as `build` gets it; folders of other stages'
    models are told by the digest of their weights."""
    kept = recipe_of(stage)
    origins = [key for key, value in stage.model.items() if str(value).startswith("stage:")]
    kept["model"] |= {key: f"weights {digest(Path(str(config[key])))}" for key in origins}
    sources = component_configs(profile, stage)
    built = [embedded(source.dataset) for source in sources.values()]
    keys = ["images"]
    keys += ["level", "seed", "train_scenes"] if any(built) else []
    keys += [] if all(built) else ["root"]  # what is built here is the same in every folder
    keys += [] if profile.data.mixture else ["dataset"]
    keys += ["split_by"] if profile.data.split_by else []
    data = {key: getattr(profile.data, key) for key in keys}
    data["mixture"] = {source: asdict(profile.data.mixture[source]) for source in sources if source}
    return {"stages": {name: kept}, "data": data, "train": {"precision": profile.train.precision}}


def recipe_of(stage: StageConfig) -> dict[str, Any]:
    """What decides a stage's result besides data and the weights that it builds on."""
    return asdict(replace(stage, validate_every=0))  # it only looks on


def keep(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write them beside a run that begins."""
    write_atomic(folder / FILE, json.dumps(settings, indent=1) + "\n")


def compare(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise UserError if the stage in a folder was made with others; a stage from before they were kept is taken.

    settings: as `settings_of` gives them, or some of their parts. A stage's part that is `stage:NAME` there, not the
    digest of its weights, fits any.
    """
    path = folder / FILE
    if not path.is_file():
        return
    then = read_object(path, "remove it to take the stage as it is")
    stages, data = then.get("stages"), then.setdefault("data", {})
    mixture = data.setdefault("mixture", {}) if isinstance(data, dict) else None
    for kept, defaults in ((stages, StageConfig()), (mixture, SourceConfig())):
        if not isinstance(kept, dict) or not all(isinstance(each, dict) for each in kept.values()):
            raise UserError(f"{path}: tells no stages or no data; remove it to take the stage as it is.")
        for name, each in kept.items():
            kept[name] = asdict(defaults) | each  # a key that came later had its default
    then, now = {key: then.get(key) for key in settings}, json.loads(json.dumps(settings))
    changed = [f"{key} = {printable(old, 80)} (now {printable(new, 80)})" for key, old, new in _changes(then, now)]
    if changed:
        more = f" and {len(changed) - MOST} more" if len(changed) > MOST else ""
        raise UserError(
            f"{folder}: was made with {', '.join(changed[:MOST])}{more}; set it back, remove the folder to train it "
            "again, or give another runs=."
        )


def _changes(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, str, str]]:
    """(key, old value, new value) of what differs in two trees of settings."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in old | new:
            yield from _changes(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new and not (str(new).startswith("stage:") and str(old).startswith("weights ")):
        yield key, json.dumps(old), json.dumps(new)
