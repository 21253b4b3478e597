"""`genseg segment IMAGE "the red car"`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from bench.cli.words import Commands, add_command, method_of, path_of, profile_of
from methods.base import UserError
from methods.files import printable


def add_to(commands: Commands) -> None:
    segment = add_command(commands, "segment", "segment what a sentence describes in your own image", run)
    segment.add_argument("image", type=path_of, help="an image, or a text file of image<tab>expression lines")
    segment.add_argument("expression", nargs="?", help="what to segment; left out with a list")
    segment.add_argument("--method", help="a method of the profile (default: the first that writes masks; lists: all)")
    segment.add_argument("--out", type=path_of, default=Path("overlay.png"))
    segment.add_argument("--checkpoint", type=path_of, help="a model's folder instead of the profile's")


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.inference.segment import segment_file, segment_list

    # a setting may stand in the expression's place; but "sign that says a=b" is none
    alone = options.expression is None or re.fullmatch(r"[\w.]+=\S*", options.expression) is not None
    if alone and options.image.suffix not in (".txt", ".tsv"):
        what = 'say what to segment, e.g. "the red car", or give a .tsv list of questions'
        raise UserError(f"{options.image}: no expression; {what}.")
    profile = profile_of([*([options.expression] if alone and options.expression else []), *words])
    if alone:
        lines = segment_list(profile, options.image, options.out)
    else:
        method = method_of(options, profile, lambda spec: "mask" in spec.wants)
        chosen = (options.expression, method, options.out, options.checkpoint)
        lines = segment_file(profile, options.image, *chosen)
    for line in lines:
        print(printable(line))
