"""What `genseg data ...` does: list, build, check and show datasets. Each prints its result and returns it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.data.cards import card_names, load_card, open_dataset
from bench.data.readers.places import NotThere
from bench.images import write_image
from bench.refmoji.build import build
from bench.refmoji.checks import check_refmoji
from bench.refmoji.sheet import sheet
from methods.base import UserError

__all__ = ["build", "check", "list_cards", "show"]


def list_cards() -> list[dict[str, Any]]:
    """One row per known dataset: name, title, kind, levels, splits, source."""
    rows = []
    for name in card_names():
        try:
            card = load_card(name)
        except UserError as error:  # of one card, which is no reason to keep silent about the others
            print(f"{error}", file=sys.stderr)
            continue
        rows.append({"name": name, "title": card.title, "kind": card.kind, "levels": list(card.levels),
                     "splits": list(card.splits), "source": card.source})  # fmt: skip
    _print_table("datasets", [{key: row[key] for key in row if key != "source"} for row in rows])
    return rows


def check(root: Path | str, name: str = "refmoji", **where: str) -> list[dict[str, Any]]:
    """Check a dataset; one table row per split, or a UserError that names the first broken sample. A built RefMoji is
    compared with its rules too. where: images and split_by, if they are not the card's."""
    if load_card(name).kind != "synthetic":
        return _check_splits(root, name, where)
    root = Path(root)
    if not (root / "dataset.json").exists():
        raise UserError(f"{root}: no finished RefMoji (dataset.json is missing); {_advice(root)}.")
    rows = check_refmoji(root)
    kinds = sum((Counter(row["kinds"]) for row in rows), Counter())
    _print_table(str(root), [{key: row[key] for key in row if key not in ("styles", "kinds")} for row in rows])
    print("kinds of expressions: " + ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()))
    return rows


def _advice(root: Path) -> str:
    """What to do with a folder that holds no RefMoji."""
    if root.is_dir() and (any(root.glob("**/refs(*")) or (root / "instances.json").exists()):
        return f"check other data with `genseg data check dataset=NAME root={root}`"
    if root.is_dir() and any(root.iterdir()):
        return "it holds other files, so give the folder of a build, or an empty one to `genseg data build`"
    return f"build it with `genseg data build root={root}`"


def show(
    root: Path | str, split: str, out: Path | str, count: int = 24, name: str = "refmoji", seed: int = 0, **where: str
) -> Path:
    """Write a contact sheet (PNG) of `count` referents of a split, chosen by `seed`; returns its path. where: images
    and split_by, if they are not the card's."""
    dataset = open_dataset(name, root, split, **where)
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.permutation(len(dataset))[: max(1, count)].tolist())
    out = write_image(sheet([dataset[index] for index in chosen]), Path(out))
    print(f"{len(chosen)} of {len(dataset)} referents of {split}: {out}")
    return out


def _check_splits(root: Path | str, name: str, where: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row per split of a downloaded dataset that is there: samples, expressions, and what is to be remarked."""
    rows, missing = [], None
    for split in load_card(name).splits:
        try:
            dataset = open_dataset(name, root, split, **where)
        except NotThere as error:
            missing = error
            continue
        dataset.check()
        infos = [dataset.info(index) for index in range(len(dataset))]
        rows.append({"split": split, "images": len({info.image_id for info in infos}), "samples": len(infos),
                     "expressions": sum(len(info.expressions) for info in infos),
                     "no target": sum(info.no_target for info in infos),
                     "remarks": "; ".join(dataset.remarks())})  # fmt: skip
    if not rows and missing:
        raise missing
    _print_table(f"{name} in {root}", rows)
    return rows


def _print_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(*rows[0], title=escape(title))
    for row in rows:
        cells = (", ".join(value) if isinstance(value, list) else str(value) for value in row.values())
        table.add_row(*map(escape, cells))
    Console().print(table)
