"""`genseg parity DIR`: this code against reference vectors made elsewhere, to check an install.

DIR and every folder below it is looked at. What a folder holds is recognised by its files; each kind of vectors is
checked by the module that computes the same thing: a method's reference checks, or the metrics'.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.words import Commands, add_command, none_left, path_of, settings_of
from methods.base import UserError
from methods.registry import METHODS, method_spec, resolve

if TYPE_CHECKING:
    from methods.check import Check


def add_to(commands: Commands) -> None:
    command = add_command(commands, "parity", "compare this code with reference vectors in a folder", run)
    command.add_argument("folder", type=path_of)


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    none_left(settings_of(words))
    if not check(options.folder):
        sys.exit(1)


def check(folder: Path) -> bool:
    """Print one row per compared quantity and return whether all agree. Raises UserError if nothing is recognised."""
    found = _recognised(folder)
    if not found:
        known = ", ".join(["metrics", *METHODS])
        raise UserError(f"{folder}: no reference vectors of a known form ({known}) in or below it; check the path.")
    results = [result for place, module in found for result in _report(place, module)]
    wrong = sum(not result.ok for result in results)
    print(f"{len(results) - wrong} of {len(results)} quantities agree in {len(found)} sets of reference vectors")
    return not wrong


def _recognised(folder: Path) -> list[tuple[Path, object]]:
    """Folders in and below `folder`, in the order of their names, each with the module that knows its form."""
    from bench.evaluate import official_runs
    from bench.evaluate import parity as metrics

    references = (resolve(ref) for name in METHODS for ref in method_spec(name).reference_checks)
    modules = [metrics, official_runs, *references]
    places = [Path(place) for place, _, _ in sorted(os.walk(folder, followlinks=True))]
    return [(place, module) for place in places for module in modules if module.recognises(place)]


def _report(folder: Path, module: object) -> list[Check]:
    try:
        results = module.check(folder)
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise UserError(f"{folder}: vectors that cannot be read ({what}); copy the folder again.") from None
    from rich.console import Console
    from rich.table import Table

    from bench.terminal import cell

    table = Table("quantity", "ours", "reference", "verdict", title=cell(folder), title_justify="left")
    for name, ours, reference, ok in results:
        table.add_row(cell(name), cell(ours), cell(reference), "agrees" if ok else "[bold red]DIFFERS")
    Console(width=None if os.environ.get("COLUMNS") else 120).print(table)
    return results
