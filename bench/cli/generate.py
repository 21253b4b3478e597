"""`genseg generate "a red car"`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench.cli.words import Commands, add_command, method_of, number_of, path_of, profile_of
from methods.files import printable


def add_to(commands: Commands) -> None:
    generate = add_command(commands, "generate", "an image from a sentence", run)
    generate.add_argument("caption")
    generate.add_argument("--method", help="a method whose tokens are those of an image (default: the first)")
    generate.add_argument("--out", type=path_of, default=Path("image.png"))
    generate.add_argument("--checkpoint", type=path_of, help="a model's folder instead of the profile's")
    scale = number_of(0, 1000, whole=False)
    generate.add_argument("--guidance", type=scale, default=4.0, help="of classifier-free guidance (default: 4)")
    seed = number_of(0, 2**31 - 1)
    generate.add_argument("--seed", type=seed, help="draw the tokens instead of taking the likeliest")


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.inference.generate import generate_file

    profile = profile_of(words)
    method = method_of(options, profile, lambda spec: spec.image_generation)
    chosen = (method, options.out, options.checkpoint, options.guidance, options.seed)
    for line in generate_file(profile, options.caption, *chosen):
        print(printable(line))
