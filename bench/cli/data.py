"""`genseg data list|build|check|show`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from bench.cli.words import Commands, add_command, none_left, path_of, settings_of, whole_of

BUILD_NUMBERS = {"train_scenes": (0, 0, 10**8), "seed": (0, 0, 2**31 - 1), "workers": (1, 1, 1024)}


def add_to(commands: Commands) -> None:
    command = add_command(commands, "data", "list, build, check or show datasets", run)
    command.add_argument("action", choices=("list", "build", "check", "show"))


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench import datasets

    values = settings_of(words)
    root = path_of(values.pop("root", "data/refmoji"))

    if options.action == "list":
        datasets.list_cards()
    elif options.action == "build":
        splits = values.pop("splits").split(",") if "splits" in values else None
        level, numbers = values.pop("level", "easy"), {k: whole_of(values, k, *d) for k, d in BUILD_NUMBERS.items()}
        none_left(values)
        datasets.build(level=level, root=root, splits=splits, **numbers)
    elif options.action == "check":
        name, where = _dataset_words(values)
        none_left(values)
        datasets.check(root, name, **where)
    else:
        split, out = values.pop("split", "val"), path_of(values.pop("out", "sheet.png"))
        count = whole_of(values, "count", 24, 1, 10_000)
        name, where = _dataset_words(values)
        none_left(values)
        datasets.show(root, split, out, count, name, **where)


def _dataset_words(values: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """The name of a dataset, and where its images are and how it is divided."""
    where: dict[str, Any] = {"images": path_of(values.pop("images"))} if values.get("images") else {}
    where |= {"split_by": values.pop("split_by")} if "split_by" in values else {}
    return values.pop("dataset", "refmoji"), where
