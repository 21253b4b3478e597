"""`genseg show`: the sample browser of a run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.cli.words import Commands, add_command, path_of, settings_of, whole_of
from methods.files import printable

if TYPE_CHECKING:
    from bench.config import Profile

ALONE = "checkpoint"  # the profile of a checkpoint
MOST = 10**7


def add_to(commands: Commands) -> None:
    text = "browse a run's samples: image, ground truth and every answer; samples= inline= steps= data.root= runs="
    command = add_command(commands, "show", text, run)
    command.add_argument("run_name", metavar="RUN", help="a profile, or its folder of results")
    command.add_argument("--out", type=path_of, help="the folder that is written (default: browser in the results)")


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.report.browser.run import STEPPED
    from bench.report.run import write_samples

    values = settings_of(words)
    counts = {name: whole_of(values, name, default, 0, MOST)
              for name, default in (("samples", 0), ("inline", 0), ("steps", STEPPED))}  # fmt: skip
    profile = _profile(options.run_name, [f"{key}={value}" for key, value in values.items()])
    print(printable(write_samples(profile, options.out, counts["samples"], counts["inline"], counts["steps"])))


def _profile(name: str, words: list[str]) -> Profile:
    """The profile of that name or file, or the one whose folder of results that is."""
    from bench.config import PROFILES, load_profile

    folder = path_of(name)
    if not folder.is_dir():
        return load_profile(name, words)
    own = folder.resolve().name
    if (PROFILES / f"{own}.yaml").is_file():
        return load_profile(own, [f"results={folder}", *words])
    return load_profile(ALONE, [f"name={own}", f"results={folder}", *words])
