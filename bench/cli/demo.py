"""`genseg demo`: a page in the browser."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bench.cli.words import Commands, add_command, number_of, profile_of


def add_to(commands: Commands) -> None:
    command = add_command(commands, "demo", "a page in the browser that asks every method about your images", run)
    command.add_argument("--port", type=number_of(1, 65535), default=7860)


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.inference.demo import serve

    serve(profile_of(words), options.port)
