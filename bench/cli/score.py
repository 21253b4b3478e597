"""`genseg score`, `dialects`, `compare` and `exchange`: files of predictions, without torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from bench.cli.words import Commands, add_command, none_left, path_of, settings_of, whole_of
from methods.files import printable


def add_to(commands: Commands) -> None:
    text = "metrics of a file of predictions: root= dataset= split= split_by= images= limit="
    add_command(commands, "score", text, run_score).add_argument("predictions", type=path_of)
    text = "paired differences of two files of predictions or scores"
    compare = add_command(commands, "compare", text, run_compare)
    compare.add_argument("first", type=path_of)
    compare.add_argument("second", type=path_of)
    text = "a file of predictions as other projects would score it"
    add_command(commands, "dialects", text, run_dialects).add_argument("predictions", type=path_of)
    text = "predictions in another form: .jsonl, .json (COCO results) or a folder of PNG masks"
    exchange = add_command(commands, "exchange", text, run_exchange)
    exchange.add_argument("predictions", type=path_of)
    exchange.add_argument("target", type=path_of)


def run_score(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.evaluate.commands import score_file

    score_file(options.predictions, _place(settings_of(words)))


def run_compare(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.evaluate.commands import compare_files

    compare_files(options.first, options.second, _place(settings_of(words)))


def run_dialects(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.evaluate.commands import dialects_file

    dialects_file(options.predictions, _place(settings_of(words)))


def run_exchange(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.evaluate.commands import exchange_file

    for path in exchange_file(options.predictions, options.target, _place(settings_of(words))):
        print(printable(path))


def _place(values: dict[str, str]) -> Any:
    """Where the truth of a file of predictions is; a profile stands for the root of its evaluation data."""
    from bench.evaluate.commands import Place

    folders = {name: path_of(values.pop(name)) for name in ("root", "images") if values.get(name)}
    names = {name: values.pop(name, None) for name in ("dataset", "split", "split_by", "profile")}
    place = Place(**folders, **names, limit=whole_of(values, "limit", 0, 0, 10**9))
    none_left(values)
    return place
