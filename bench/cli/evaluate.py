"""`genseg eval`: predictions, scores and records."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bench.cli.words import Commands, add_command, announce, profile_of


def add_to(commands: Commands) -> None:
    add_command(commands, "eval", "predictions, scores and records of every method, mask tokenizer and baseline", run)


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.evaluate.run import evaluate
    from bench.train.models import find_models

    profile = profile_of(words)
    announce("eval", profile, ("data", "evaluate"))
    evaluate(profile, find_models(profile))
