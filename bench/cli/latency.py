"""`genseg latency`: seconds per image, stage by stage."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.cli.words import Commands, add_command, announce, profile_of

if TYPE_CHECKING:
    from bench.config import Profile


def add_to(commands: Commands) -> None:
    add_command(commands, "latency", "seconds per image, stage by stage", run)


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    profile = profile_of(words)
    announce("latency", profile, ("data", "latency"))
    measure(profile)


def measure(profile: Profile) -> None:
    """Time the profile's models, or its architectures with random weights if it names some."""
    from bench.latency.run import time_models, time_untrained
    from bench.train.models import find_models

    if profile.latency.untrained:
        time_untrained(profile)
    else:
        time_models(profile, find_models(profile))
