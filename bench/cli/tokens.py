"""`genseg encode` and `genseg decode`: mask files into tokens of a mask tokenizer, and back."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.cli.words import Commands, add_command, none_left, path_of, settings_of, whole_of
from methods.base import UserError
from methods.files import printable
from methods.registry import METHODS, method_spec
from methods.registry import method_of as method_in


def add_to(commands: Commands) -> None:
    words = "checkpoint= method= tokens= profile="
    for name, text, given, made in (
        ("encode", "mask files into the tokens of a mask tokenizer: " + words, "a mask, or a folder of masks (PNG)",
         "a .jsonl file of tokens"),
        ("decode", "tokens of a mask tokenizer into mask files: " + words, "a .jsonl file of tokens",
         "a new folder of masks"),
    ):  # fmt: skip
        command = add_command(commands, name, text, run)
        command.add_argument("source", type=path_of, help=given)
        command.add_argument("target", type=path_of, help=made)


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.evaluate.mask_tokens import decode_file, encode_files, load_mask_tokenizer

    values = settings_of(words)
    tokens = whole_of(values, "tokens", 0, 0, 10**6)
    mask_tokenizer = load_mask_tokenizer(*chosen_tokenizer(values))
    none_left(values)
    work = encode_files if options.command == "encode" else decode_file
    for line in work(options.source, options.target, mask_tokenizer, tokens):
        print(printable(line))


def chosen_tokenizer(values: dict[str, str]) -> tuple[str, Path]:
    """The method, and the folder or file of its weights: those of checkpoint=, else of the profile."""
    checkpoint, name = values.pop("checkpoint", ""), values.pop("method", "")
    if checkpoint:
        path = path_of(checkpoint)
        if not name and path.is_file():
            raise UserError(f"{checkpoint}: a file does not say whose mask tokenizer it is; give method=NAME too.")
        return name or method_in(path), path
    return _of_profile(values.pop("profile", "nano"), name)


def _of_profile(profile_name: str, name: str) -> tuple[str, Path]:
    from bench.config import load_profile
    from bench.train.models import find_model

    profile: Any = load_profile(profile_name)
    able = [each for each in profile.models if "mask" in method_spec(each).wants]
    if name and name not in able:
        known = "no such method" if name not in METHODS else f"no model of {name} that writes masks in {profile_name}"
        raise UserError(f"There is {known}; choose {' or '.join(able)}.")
    chosen = name or able[0]
    return chosen, find_model(profile, chosen)
