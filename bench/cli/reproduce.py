"""`genseg reproduce` and `genseg study`: several commands in a row."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.cli.latency import measure
from bench.cli.words import (
    Commands,
    add_command,
    add_dry_run,
    announce,
    evaluated_profile,
    evaluation_settings,
    profile_of,
)
from bench.distributed import SINGLE_PROCESS, DistributedContext
from methods.base import UserError

if TYPE_CHECKING:
    from bench.config import Profile

SECTIONS = ("data", "train", "evaluate", "latency")


def add_to(commands: Commands) -> None:
    text = "evaluate and time the profile's models (trained first if none are bundled), then report"
    add_dry_run(add_command(commands, "reproduce", text, run_reproduce))
    add_command(commands, "study", "train everything from scratch, bundle the weights, then reproduce", run_study)


def run_reproduce(options: argparse.Namespace, words: Sequence[str]) -> None:
    profile = evaluated_profile(evaluation_settings(words))
    if options.dry_run:
        from bench.experiments.dry_run import dry_run

        dry_run(profile, trains=True)
        return
    from bench.distributed import join

    context = join("gloo")
    if context.first:
        announce("reproduce", profile, SECTIONS)
    reproduce(profile, context)


def run_study(options: argparse.Namespace, words: Sequence[str]) -> None:
    profile = profile_of(words)
    announce("study", profile, SECTIONS, profile.stages)
    study(profile)


def reproduce(profile: Profile, context: DistributedContext = SINGLE_PROCESS) -> None:
    """Evaluate and time the profile's models (training them first if none are bundled), then report. Of many processes
    all evaluate, and the first does the rest."""
    from bench.evaluate.run import evaluate
    from bench.evaluate.validation import validation
    from bench.report.run import write_report
    from bench.train.models import existing_model, find_models
    from bench.train.run import train

    missing = [stage for method, stage in profile.models.items() if existing_model(profile, method) is None]
    if missing and context.size > 1:
        raise UserError(f"There are no weights of stage {missing[0]} yet; train it first with `genseg train`.")
    if missing:
        train(profile, missing, validation)
    evaluate(profile, find_models(profile), context)
    if context.first:
        measure(profile)
        write_report(profile, strips=True)


def study(profile: Profile) -> None:
    """Train the profile's models with all that they build on, bundle them, then reproduce."""
    from bench.evaluate.validation import validation
    from bench.train.models import bundle, trained_models
    from bench.train.run import train

    train(profile, trained_models(profile).values(), validation)
    bundle(profile)
    reproduce(profile)
