"""`genseg eval`: predictions, scores and records of a profile's models, or of a checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bench.cli.words import Commands, add_command, announce, path_of, profile_of, settings_of
from bench.config import Profile
from methods.base import UserError
from methods.registry import method_of

# short words -> the settings of a profile
SETTINGS = {
    "dataset": "data.dataset", "root": "data.root", "images": "data.images", "split_by": "data.split_by",
    "limit": "evaluate.limit", "batch": "evaluate.batch", "precision": "evaluate.precision",
    "refine": "evaluate.refine",
}  # fmt: skip
# likewise, of lists with commas between their members
LISTS = {"split": "evaluate.splits", "protocol": "evaluate.protocols", "tokens": "evaluate.tokens"}
ALONE = "checkpoint"  # the profile of a checkpoint


def add_to(commands: Commands) -> None:
    text = "predictions, scores and records of a profile's models, or of checkpoint= on dataset= split= root="
    add_command(commands, "eval", text, run)


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    values = {SETTINGS.get(key, key): value for key, value in settings_of(words).items()}
    values = {LISTS.get(key, key): f"[{value}]" if key in LISTS else value for key, value in values.items()}
    alone = "checkpoint" in values
    profile = of_checkpoint(values) if alone else profile_of([f"{key}={value}" for key, value in values.items()])
    from bench.distributed import join

    context = join("gloo")
    if context.first:
        announce("eval", profile, ("data", "evaluate"))
    from bench.evaluate.commands import print_scores
    from bench.evaluate.run import evaluate, shown
    from bench.train.models import find_models

    records = evaluate(profile, find_models(profile), context)
    if alone and context.first:
        print_scores(shown(records), str(profile.results_dir / "records"))


def of_checkpoint(values: dict[str, str]) -> Profile:
    """The profile of a checkpoint, of settings with `checkpoint`, its folder, and perhaps `model`, its method, and
    `mask_tokenizer`, a file that stands in place of its own. Its name tells method, size and digest."""
    from bench.runtime import digest, size_of

    folder, named = path_of(values.pop("checkpoint")), values.pop("model", None)
    other = path_of(values.pop("mask_tokenizer")).absolute() if values.get("mask_tokenizer") else None
    method = method_of(folder)
    if named not in (None, method):
        raise UserError(f"{folder}: holds a model of {method}, not {named!r}; leave model= out or correct it.")
    if other is not None and not other.is_file():
        raise UserError(f"{other}: no such file; give the file of the mask tokenizer.")
    name = "-".join(filter(None, [method, size_of(folder), digest(folder, other)[:8]]))
    given = {"profile": ALONE, "name": name, f"models.{method}": str(folder.absolute())}
    given |= {f"mask_tokenizers.{method}": str(other)} if other else {}
    return profile_of([f"{key}={value}" for key, value in (given | values).items()])
