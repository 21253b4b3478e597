"""`genseg score`, `dialects`, `compare`, `explain` and `exchange`: files of predictions, without torch."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from string import ascii_lowercase
from typing import Any

from bench.cli.words import Commands, add_command, none_left, path_of, settings_of, whole_of
from methods.base import UserError
from methods.files import printable

SETTING = re.compile(r"[a-z_.]+=")  # how a word that is no file begins


def add_to(commands: Commands) -> None:
    text = "metrics of a file of predictions: root= dataset= split= split_by= images= limit= method= protocol= results="
    add_command(commands, "score", text, run_score).add_argument("predictions", type=path_of)
    text = "paired differences of two files of predictions or scores, or of two runs (folders with scores)"
    compare = add_command(commands, "compare", text, run_compare)
    compare.add_argument("first", type=path_of)
    compare.add_argument("second", type=path_of)
    text = "also as a page of its own, with the samples that changed most (drawn with images=FOLDER)"
    compare.add_argument("--page", type=path_of, metavar="FILE.html", help=text)
    text = "why two files of predictions score differently: dialect=A,B, or a.root= b.root= and so on for one of them"
    explain = add_command(commands, "explain", text, run_explain)
    explain.add_argument("files", nargs="+", help="the two files, perhaps with runs between them")
    text = "a file of predictions as other projects would score it"
    add_command(commands, "dialects", text, run_dialects).add_argument("predictions", type=path_of)
    text = "predictions in another form: .jsonl, .json (COCO results) or a folder of PNG masks"
    exchange = add_command(commands, "exchange", text, run_exchange)
    exchange.add_argument("predictions", type=path_of)
    exchange.add_argument("target", type=path_of)


def run_score(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.evaluate.commands import Named, score_file

    values = settings_of(words)
    results = values.pop("results", "")
    named = Named(values.pop("method", ""), values.pop("protocol", ""), path_of(results) if results else None)
    score_file(options.predictions, _place(values), named)


def run_compare(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.evaluate.commands import compare_files, pairs_of

    place = _place(settings_of(words))
    if options.page:
        from bench.report.comparison import check_target

        check_target(options.page)
    found = [(files, compare_files(*files, place)) for files in pairs_of(options.first, options.second)]
    if options.page:
        from bench.report.comparison import pair_of, write_comparison

        print(printable(write_comparison(options.page, [pair_of(files, each, place) for files, each in found])))


def run_explain(options: argparse.Namespace, words: Sequence[str]) -> None:
    """`a.` stands before what is said of the first file alone, `b.` before the second's, and so on."""
    from bench.evaluate.commands import explain_files

    files = [path_of(word) for word in options.files if not SETTING.match(word)]
    words = [*(word for word in options.files if SETTING.match(word)), *words]
    count = len(files)
    if not 2 <= count <= len(ascii_lowercase):
        raise UserError("Give two files of predictions, or more with the runs between them in the middle.")
    values = settings_of(words)
    names = values.pop("dialect", "genseg").split(",")
    names = names * count if len(names) == 1 else names
    if len(names) != count:
        raise UserError(f"dialect= names {len(names)} dialects for {count} files; give one for each, or one for all.")
    own: dict[str, dict[str, str]] = {letter: {} for letter in ascii_lowercase[:count]}
    for key in [key for key in values if key[:2] in {f"{letter}." for letter in own}]:
        own[key[0]][key[2:]] = values.pop(key)
    explain_files(files, [_place(values | each) for each in own.values()], names)


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
