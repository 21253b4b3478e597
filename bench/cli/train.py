"""`genseg train [STAGE ...]`: train stages of a profile with what they build on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bench.cli.words import Commands, add_command, announce, profile_of

TEXT = "train the named stages (all if none is named) with what they build on"


def add_to(commands: Commands) -> None:
    add_command(commands, "train", TEXT, run).add_argument("stages", nargs="*", help="names of stages in the profile")


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.evaluate.validation import validation
    from bench.train.folders import stages_in_order
    from bench.train.run import train

    names, words = names_and_settings(options.stages, words)
    profile = profile_of(words)
    announce("train", profile, ("data", "train"), stages_in_order(profile, names))
    train(profile, names, validation)


def names_and_settings(stages: Sequence[str], words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of stages and key=value words, which may stand in any order."""
    return [w for w in stages if "=" not in w], [*(w for w in stages if "=" in w), *words]
