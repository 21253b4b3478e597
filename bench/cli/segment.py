"""`genseg segment IMAGE "the red car"`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.cli.words import Commands, add_command, method_of, number_of, path_of, profile_of
from methods.base import UserError
from methods.files import number, printable


def add_to(commands: Commands) -> None:
    segment = add_command(commands, "segment", "segment what a sentence describes in your own image", run)
    segment.add_argument("image", type=path_of, help="an image, or a text file of image<tab>expression lines")
    segment.add_argument("expression", nargs="?", help="what to segment; left out with a list")
    for name, form, what in POINTED:
        segment.add_argument(name, metavar=form, help=f"{what}, in place of an expression")
    segment.add_argument("--tokens", type=number_of(1, 10**6), help="mask tokens to write (default: all)")
    segment.add_argument("--refine", type=path_of, help="file or folder of a SAM that sharpens the mask")
    segment.add_argument("--method", help="a method of the profile (default: the first that writes masks; lists: all)")
    segment.add_argument("--out", type=path_of, default=Path("overlay.png"))
    segment.add_argument("--checkpoint", type=path_of, help="a model's folder instead of the profile's")


POINTED = (
    ("--box", "X1,Y1,X2,Y2", "the mask of what a box shows, in pixels"),
    ("--points", "X,Y;X,Y", "the mask of what is at points, in pixels"),
    ("--mask", "FILE", "the box of a mask, white in an image of the same size"),
)


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.inference.segment import Asked, segment_file, segment_list

    given = [name for name in ("box", "points", "mask") if getattr(options, name) is not None]
    # a setting may stand in the expression's place; but "sign that says a=b" is none
    alone = options.expression is None or re.fullmatch(r"[\w.]+=\S*", options.expression) is not None
    if len(given) + (not alone) > 1:
        raise UserError(f"{options.image}: give one of an expression, --box, --points and --mask.")
    if alone and not given and options.image.suffix not in (".txt", ".tsv"):
        what = 'say what to segment, e.g. "the red car", or give a .tsv list of questions'
        raise UserError(f"{options.image}: no expression; {what}.")
    profile = profile_of([*([options.expression] if alone and options.expression else []), *words])
    if alone and not given:
        lines = segment_list(profile, options.image, options.out)
    else:
        method = method_of(options, profile, lambda spec: "mask" in spec.wants and {*given} <= {*spec.given})
        asked = Asked(
            "" if alone else options.expression,
            next(iter(_tuples(options.box, "--box", 4)), None),
            tuple(_tuples(options.points, "--points", 2)),
            None if options.mask is None else path_of(options.mask),
            options.tokens,
        )
        chosen = (asked, method, options.out, options.checkpoint, options.refine)
        lines = segment_file(profile, options.image, *chosen)
    for line in lines:
        print(printable(line))


def _tuples(text: str | None, name: str, length: int) -> list[Any]:
    """Numbers with commas between them, `length` each, and semicolons between those."""
    found = [tuple(number(word, f"{name}: a number", -1e6, 1e6) for word in part.split(","))
             for part in (text or "").split(";") if part.strip()]  # fmt: skip
    if any(len(each) != length for each in found) or (text is not None and not found):
        raise UserError(f"{name} is {printable(repr(text), 80)}; write {dict((n, f) for n, f, _ in POINTED)[name]}.")
    return found
