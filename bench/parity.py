"""`genseg parity DIR`: this code against reference vectors made elsewhere."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.evaluate import parity as metrics
from methods.base import UserError

# what a folder of vectors is known by -> the module that checks it
CHECKS = {"metrics.json": metrics}


def check(folder: Path) -> bool:
    """Print one row per compared value and return whether all agree. Raises UserError for an unknown folder."""
    for name, module in CHECKS.items():
        if (folder / name).is_file():
            results = module.check(folder)
            break
    else:
        raise UserError(f"{folder}: holds none of {', '.join(CHECKS)}; give a folder of reference vectors.")
    table = Table("value", "ours", "reference", "agrees")
    wrong = [result for result in results if not result[3]]
    for name, ours, reference, ok in wrong[:20]:
        table.add_row(name, str(ours), str(reference), "yes" if ok else "[red]no")
    console = Console()
    if wrong:
        console.print(table)
    console.print(f"{len(results) - len(wrong)} of {len(results)} values agree")
    return not wrong
