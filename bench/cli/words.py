"""The words of a command: paths, numbers, and settings as key=value."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.config import Profile, load_profile, overview
from methods.base import MethodSpec, UserError
from methods.files import check_text, number, printable
from methods.registry import METHODS, method_spec

Commands = Any  # what argparse's add_subparsers returns
Run = Callable[[argparse.Namespace, Sequence[str]], None]  # the options, and the words that are key=value


def add_command(commands: Commands, name: str, text: str, run: Run) -> argparse.ArgumentParser:
    """Declare a command with its line of help; returns its parser."""
    command = commands.add_parser(name, help=text, description=text)
    command.set_defaults(run=run)
    return command


def path_of(text: str) -> Path:
    """A path from the command line; ~ is the home, and a name may hold bytes that are no text."""
    if "\0" in text:
        raise UserError(f"{printable(text, 80)}: no path holds a zero character; leave it out.")
    return Path(text).expanduser() if text == "~" or text.startswith("~/") else Path(text)


def number_of(low: float, high: float, whole: bool = True) -> Callable[[str], float]:
    """A reader of an option's number, with bounds."""
    return lambda text: number(text, "The option's value", low, high, whole)


def settings_of(words: Sequence[str]) -> dict[str, str]:
    """key=value words by key; of a key that is given twice the last. Raises UserError for bytes that are no text."""
    return dict(check_text(word, printable(word, 80)).split("=", 1) for word in words)


def whole_of(values: dict[str, str], key: str, default: int, low: int, high: int) -> int:
    """Take a whole number out of the settings. Raises UserError if it is none, or out of bounds."""
    return number(values.pop(key, default), key, low, high, whole=True)


def none_left(values: dict[str, str]) -> None:
    """Raise UserError for a setting that no command has taken."""
    if values:
        raise UserError(f"Unknown setting {printable(repr(next(iter(values))), 80)} of this command; see the README.")


def split_profile(words: Sequence[str]) -> tuple[str, list[str]]:
    """(name or path of the profile, the other key=value words)."""
    values = settings_of(words)
    name = values.pop("profile", "nano")
    return name, [f"{key}={value}" for key, value in values.items()]


def profile_of(words: Sequence[str]) -> Profile:
    """The profile that key=value words name and override."""
    return load_profile(*split_profile(words))


def method_of(options: argparse.Namespace, profile: Profile, able: Callable[[MethodSpec], bool]) -> str:
    """The method of --method; else the profile's first that is able to do what is asked, or the first of all."""
    return options.method or next(name for name in (*profile.models, *METHODS) if able(method_spec(name)))


def announce(command: str, profile: Profile, sections: Sequence[str] = (), stages: Iterable[str] = ()) -> None:
    """Print to stderr what a command resolved: the profile's head, and the sections and stages that it uses."""
    print(f"# genseg {command}\n{overview(profile, sections, stages)}", file=sys.stderr)
