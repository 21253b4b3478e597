"""`genseg ablation`: what each part of a model is worth."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bench.cli.words import Commands, add_command, announce, profile_of


def add_to(commands: Commands) -> None:
    text = "the same models with fewer mask tokens, and what each token or scale is worth"
    add_command(commands, "ablation", text, run)


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.experiments.ablation import ablation
    from bench.report.run import write_report
    from bench.train.models import find_models

    profile = profile_of(words)
    announce("ablation", profile, ("data", "evaluate", "ablation"))
    ablation(profile, find_models(profile))
    write_report(profile)
