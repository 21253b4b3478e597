"""`genseg plan [STAGE ...]`: what stages of a profile will cost."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bench.cli.train import names_and_settings
from bench.cli.words import Commands, add_command, announce, profile_of, settings_of

TEXT = "what the named stages (all if none is named) will cost: gpus=8 memory=80 mfu=0.4"
ALL_SIZES = ("1B", "2B", "4B", "8B", "26B", "38B", "78B")
MACHINE = ("gpus", "memory", "mfu", "text", "answer", "tiles")  # settings besides the profile's


def add_to(commands: Commands) -> None:
    add_command(commands, "plan", TEXT, run).add_argument("stages", nargs="*", help="names of stages in the profile")


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.train.cost_estimate import machine_of, print_plan, print_sizes
    from bench.train.folders import check_stages

    names, words = names_and_settings(options.stages, words)
    machine = [word for word in words if word.partition("=")[0] in MACHINE]
    sizes = settings_of([word for word in words if word.startswith("sizes=")]).get("sizes", "")
    profile = profile_of([word for word in words if word not in machine and not word.startswith("sizes=")])
    check_stages(profile, names)
    if sizes:
        every = ALL_SIZES if sizes == "all" else tuple(sizes.split(","))
        print_sizes(profile, names, machine_of(settings_of(machine)), every)
        return
    announce("plan", profile, ("train",), names or profile.stages)
    print_plan(profile, names, machine_of(settings_of(machine)))
