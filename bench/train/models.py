"""The weights of a profile's methods: where they are, and how they are bundled with its results."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from bench.assets import asset
from bench.config import Profile
from bench.outputs import Outputs
from bench.train.folders import keep_log, model_of_stage, needed_stages, stage_folder
from bench.train.stages import finished_model
from bench.weights import check_folder
from methods.base import UserError
from methods.files import read_object, write_atomic
from methods.registry import method_class, method_of


def find_models(profile: Profile) -> dict[str, Path]:
    """Method -> the folder of its weights, for all of the profile's. Raises UserError as `find_model` does."""
    return {name: find_model(profile, name) for name in profile.models}


def find_model(profile: Profile, method: str) -> Path:
    """The folder of a method's weights: bundled, or trained before with the profile's settings.

    Raises UserError if there are none: only `train`, `study` and `reproduce` train.
    """
    stage = profile.models[method]
    found = existing_model(profile, method)
    if found is None:
        places = [str(stage_folder(profile, stage))] + [str(bundled_model(profile, method))] * profile.bundled
        raise UserError(
            f"There are no weights of {method} in {' or '.join(places)}; train them with `genseg train {stage}` and "
            "the same profile, or name the folder that has them with runs= or results=."
        )
    return found


def existing_model(profile: Profile, method: str) -> Path | None:
    """The same, None if there are no weights yet. Raises UserError for a checkpoint that is not there: none is made."""
    checkpoint = profile.checkpoint_of(method)
    if checkpoint is not None:
        found = method_of(checkpoint)
        if found != method:
            raise UserError(f"{checkpoint}: holds a model of {found}, not of {method}; correct models.{method}.")
        check_folder(checkpoint)
        return checkpoint
    places = [bundled_model(profile, method)]
    if profile.results_dir == Path("results", profile.name):  # the usual place, in this folder or with the code
        places.append(asset("results", profile.name, "checkpoints", method))
    for bundled in places if profile.bundled else ():
        if (bundled / "config.json").is_file():
            return bundled
    return finished_model(profile, profile.models[method])


def trained_models(profile: Profile) -> dict[str, str]:
    """Method -> the stage whose model stands in the tables, without those that are a checkpoint."""
    return {name: stage for name, stage in profile.models.items() if profile.checkpoint_of(name) is None}


def bundled_model(profile: Profile, method: str) -> Path:
    return profile.results_dir / "checkpoints" / method


def bundle(profile: Profile) -> list[Path]:
    """Copy the trained models as float16 to results/<profile>/checkpoints, from where `reproduce` takes them, and the
    logs of their training to results/<profile>/logs. Raises UserError if something else is in their place."""
    outputs, folders = Outputs(profile.results_dir), []
    for method, stage in trained_models(profile).items():
        trained = method_class(method).from_pretrained(model_of_stage(profile, stage))
        with tempfile.TemporaryDirectory(dir=profile.runs_dir, prefix=".tmp-") as made:
            draft = Path(made) / method
            trained.save_pretrained(draft, "float16", max_shard_size="15MB")
            words = read_object(draft / "tokenizer.json", "save the model again")
            write_atomic(draft / "tokenizer.json", json.dumps(words, ensure_ascii=False))  # half the size, unindented
            folders.append(outputs.write_folder(f"checkpoints/{method}", draft, "config.json"))
        for name in needed_stages(profile, stage):
            for log in ("train.jsonl", "validation.jsonl", "speed.jsonl"):
                keep_log(profile, name, log)
    return folders
