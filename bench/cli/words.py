"""The words of a command: paths, numbers, and settings as key=value."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from methods.base import MethodSpec, UserError
from methods.files import check_text, number, printable
from methods.registry import METHODS, method_spec

if TYPE_CHECKING:
    from bench.config import Profile

Commands = Any  # what argparse's add_subparsers returns
Run = Callable[[argparse.Namespace, Sequence[str]], None]  # the options, and the words that are key=value


def add_command(commands: Commands, name: str, text: str, run: Run) -> argparse.ArgumentParser:
    """Declare a command with its line of help; returns its parser."""
    command = commands.add_parser(name, help=text, description=text)
    command.set_defaults(run=run)
    return command


def add_dry_run(command: argparse.ArgumentParser) -> None:
    """Declare --dry-run of a command that evaluates."""
    text = "only list what is needed, found and missing, and estimate what it takes"
    command.add_argument("--dry-run", action="store_true", help=text)


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
    from bench.config import load_profile

    return load_profile(*split_profile(words))


# short words of an evaluation -> the settings of a profile
SHORT = {
    "dataset": "data.dataset", "root": "data.root", "images": "data.images", "split_by": "data.split_by",
    "limit": "evaluate.limit", "batch": "evaluate.batch", "precision": "evaluate.precision",
    "refine": "evaluate.refine",
}  # fmt: skip
# likewise, of lists with commas between their members
LISTS = {"split": "evaluate.splits", "protocol": "evaluate.protocols", "tokens": "evaluate.tokens"}


def evaluation_settings(words: Sequence[str]) -> dict[str, str]:
    """key=value words by key, short words written out."""
    values = {SHORT.get(key, key): value for key, value in settings_of(words).items()}
    return {LISTS.get(key, key): f"[{value}]" if key in LISTS else value for key, value in values.items()}


def evaluated_profile(values: Mapping[str, str]) -> Profile:
    """The profile of an evaluation's settings. Of one that evaluates on several datasets `dataset` chooses some. Raises
    UserError for a choice that it does not have."""
    others = {key: value for key, value in values.items() if key != "data.dataset"}
    profile = profile_of([f"{key}={value}" for key, value in others.items()])
    known, chosen = profile.evaluate.datasets, values.get("data.dataset")
    if not known:
        return profile if chosen is None else profile_of([f"{key}={value}" for key, value in values.items()])
    if "evaluate.splits" in values:
        raise UserError(
            f"Profile {profile.name} evaluates on several datasets, each with its own splits; give "
            f"evaluate.datasets.{next(iter(known))}.splits=[...] instead of split=."
        )
    from bench.schema import unknown

    names = list(known) if chosen is None else chosen.split(",")
    for name in names:
        if name not in known:
            raise unknown(f"dataset {name!r} in evaluate.datasets", name, known, f"profile {profile.name}")
    profile.evaluate.datasets = {name: known[name] for name in names}
    return profile


def method_of(options: argparse.Namespace, profile: Profile, able: Callable[[MethodSpec], bool]) -> str:
    """The method of --method; else the profile's first that is able to do what is asked, or the first of all."""
    return options.method or next(name for name in (*profile.models, *METHODS) if able(method_spec(name)))


def announce(command: str, profile: Profile, sections: Sequence[str] = (), stages: Iterable[str] = ()) -> None:
    """Print to stderr what a command resolved: the profile's head, and the sections and stages that it uses."""
    from bench.config import overview

    print(f"# genseg {command}\n{overview(profile, sections, stages)}", file=sys.stderr)
