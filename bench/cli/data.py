"""`genseg data list`, and `build`, `check`, `show`, `export`, `overlap` of a dataset: `genseg data check refcoco
root=refer`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.cli.words import Commands, add_command, none_left, path_of, settings_of, whole_of
from methods.base import UserError

BUILD_NUMBERS = {"train_scenes": (0, 0, 10**8), "seed": (0, 0, 2**31 - 1), "workers": (1, 1, 1024)}
ACTIONS = ("list", "build", "check", "show", "export", "overlap")


def add_to(commands: Commands) -> None:
    command = add_command(commands, "data", "list, build, check, show, export or compare datasets", run)
    command.add_argument("action", choices=ACTIONS)
    command.add_argument("name", nargs="?", default="refmoji", help="a dataset of the list (default: refmoji)")


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    if "=" in options.name:  # the first setting of a command without a name
        options.name, words = "refmoji", [options.name, *words]
    values = settings_of(words)
    actions = {"list": _list, "build": _build, "check": _check, "show": _show, "export": _export, "overlap": _overlap}
    actions[options.action](options.name, values)


def _list(name: str, values: dict[str, str]) -> None:
    from bench.cli.datasets import list_cards

    none_left(values)
    list_cards()


def _build(name: str, values: dict[str, str]) -> None:
    from bench.cli.datasets import build
    from bench.data.cards import load_card

    if name != "refmoji":
        load_card(name)
        raise UserError(f"{name} is not built here; download it, and see `genseg data check {name} root=FOLDER`.")
    root, level = _root(name, values), values.pop("level", "easy")
    splits = values.pop("splits").split(",") if "splits" in values else None
    numbers = {key: whole_of(values, key, *bounds) for key, bounds in BUILD_NUMBERS.items()}
    none_left(values)
    build(level=level, root=root, splits=splits, **numbers)


def _check(name: str, values: dict[str, str]) -> None:
    from bench.cli.datasets import check

    root, where = _root(name, values), _where(values)
    none_left(values)
    check(root, name, **where)


def _show(name: str, values: dict[str, str]) -> None:
    from bench.cli.datasets import show

    root, where = _root(name, values), _where(values)
    split, out = values.pop("split", None), path_of(values.pop("out", "sheet.png"))
    count = whole_of(values, "count", 24, 1, 10_000)
    none_left(values)
    show(root, split, out, count, name, **where)


def _export(name: str, values: dict[str, str]) -> None:
    from bench.cli.datasets import export_rows
    from bench.data.export import FORMS

    root, where = _root(name, values), _where(values)
    form, out = values.pop("form", FORMS[0]), path_of(values.pop("out", f"{name}-rows"))
    split, limit = values.pop("split", None), whole_of(values, "limit", 0, 0, 10**9)
    none_left(values)
    export_rows(root, split, form, out, limit, name, **where)


def _overlap(name: str, values: dict[str, str]) -> None:
    from bench.cli.datasets import show_overlap

    theirs = {key.removeprefix("other."): values.pop(key) for key in list(values) if key.startswith("other.")}
    other, out = values.pop("other", ""), path_of(values.pop("out", "overlap.jsonl"))
    if not other:
        raise UserError("Name the dataset to compare with, as other=refcoco other.root=FOLDER other.split=val.")
    both = ((name, values), (other, theirs))
    sides = [(own, _root(own, mine), mine.pop("split", None), _where(mine)) for own, mine in both]
    none_left(values | {f"other.{key}": value for key, value in theirs.items()})
    show_overlap(*sides, out)


def _root(name: str, values: dict[str, str]) -> Path:
    """Where a dataset is: as the words say, or its card."""
    from bench.data.cards import load_card

    card = load_card(name)
    root = values.pop("root", card.defaults.get("root"))
    if root is None:
        raise UserError(f"{name}: give root=FOLDER, where it lies; source: {card.source}.")
    return path_of(root)


def _where(values: dict[str, str]) -> dict[str, Any]:
    """Where a dataset's images are, how it is divided, and what else its reader may be told."""
    where: dict[str, Any] = {"images": path_of(values.pop("images"))} if values.get("images") else {}
    return where | {key: values.pop(key) for key in ("split_by", "ask", "reader") if key in values}
