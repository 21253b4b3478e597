"""`genseg eval`: predictions, scores and records of a profile's models, or of a checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.cli.words import (
    Commands,
    add_command,
    add_dry_run,
    announce,
    evaluated_profile,
    evaluation_settings,
    path_of,
)
from bench.weights import check_folder, fault_of
from methods.base import UserError
from methods.registry import method_of

if TYPE_CHECKING:
    from bench.config import Profile

ALONE = "checkpoint"  # the profile of a checkpoint


def add_to(commands: Commands) -> None:
    text = "predictions, scores and records of a profile's models, or of checkpoint= on dataset= split= root="
    add_dry_run(add_command(commands, "eval", text, run))


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    values = evaluation_settings(words)
    alone = "checkpoint" in values
    profile = of_checkpoint(values) if alone else evaluated_profile(values)
    if options.dry_run:
        from bench.experiments.dry_run import dry_run

        dry_run(profile)
        return
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
    check_folder(folder)
    fault = fault_of(other) if other is not None else None
    if fault:
        raise UserError(f"{other}: {fault}; give the file of the mask tokenizer.")
    name = "-".join(filter(None, [method, size_of(folder), digest(folder, other)[:8]]))
    given = {"profile": ALONE, "name": name, f"models.{method}": str(folder.absolute())}
    given |= {f"mask_tokenizers.{method}": str(other)} if other else {}
    return evaluated_profile(given | values)
