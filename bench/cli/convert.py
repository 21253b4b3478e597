"""`genseg convert SOURCE TARGET`: official checkpoints and ours."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bench.cli.words import Commands, add_command, none_left, path_of, settings_of
from methods.base import UserError
from methods.files import printable


def add_to(commands: Commands) -> None:
    convert = add_command(commands, "convert", "public checkpoints into this project's layout, or back", run)
    convert.add_argument("source", type=path_of)
    convert.add_argument("target", type=path_of)
    convert.add_argument("--method", required=True, help="whose checkpoints they are (boxes: InternVL2.5 alone)")


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    from methods.registry import METHODS, method_spec, resolve

    none_left(settings_of(words))
    convert = method_spec(options.method).convert
    if convert is None:
        able = ", ".join(name for name in METHODS if method_spec(name).convert)
        raise UserError(f"{options.method} has no official checkpoints; choose one of {able}.")
    print(printable(resolve(convert)(options.source, options.target)))
