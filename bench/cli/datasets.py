"""What `genseg data ...` does: list, build, check, show and export datasets. Each prints its result and returns it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.data.cards import COUNTED, card_names, load_card, open_dataset
from bench.data.contact_sheet import contact_sheet
from bench.data.export import export
from bench.data.overlap import Pair, looks_of, shared_images
from bench.data.readers.places import NotThere
from bench.data.status import FOUND, MISSING, WRONG, SplitStatus, archives_of, how_to_get, status_of
from bench.outputs import check_lines, write_image
from bench.refmoji.build import build
from bench.refmoji.checks import check_refmoji
from bench.terminal import cell
from methods.base import UserError
from methods.files import printable, write_lines

__all__ = ["build", "check", "export_rows", "list_cards", "show", "show_overlap"]
COLUMNS = (*COUNTED, "no target")


def list_cards() -> list[dict[str, Any]]:
    """One row per known dataset: name, title, kind, what it serves, its forms, levels, splits, counts, source."""
    rows = []
    for name in card_names():
        try:
            card = load_card(name)
        except UserError as error:  # of one card, which is no reason to keep silent about the others
            print(printable(error), file=sys.stderr)
            continue
        rows.append({"name": name, "title": card.title, "kind": card.kind, "serves": card.serves,
                     "forms": list(card.readers), "levels": list(card.levels), "splits": list(card.splits),
                     "counts": dict(card.counts), "source": card.source})  # fmt: skip
    _print_table("datasets, with the counts of the releases", [line for row in rows for line in _split_lines(row)])
    return rows


def _split_lines(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lines of a dataset in the table: one per split, of which the first names it."""
    head = {"name": row["name"], "serves": row["serves"]}
    lines = [dict.fromkeys(head, "") | {"split": split} | _columns(row["counts"].get(split, {}), COUNTED)
             for split in row["splits"]]  # fmt: skip
    return [lines[0] | head, *lines[1:]]


def _columns(counts: Mapping[str, int], keys: Sequence[str]) -> dict[str, Any]:
    return {key: counts.get(key, "") for key in keys}


def check(root: Path | str, name: str = "refmoji", **where: str) -> list[dict[str, Any]]:
    """Check a dataset: one table row per split with what is found, missing or wrong, and how to mend it below.

    A built RefMoji is compared with its rules too. where: images and split_by, if they are not the card's. Raises
    UserError at the end if a split is wrong, or none is there.
    """
    card = load_card(name)
    if card.kind == "synthetic":
        return _check_built(Path(root))
    splits = status_of(card, root, where)
    rows = [{"split": each.split, "state": each.state, "form": each.form} | _columns(each.counts, COLUMNS)
            for each in splits]  # fmt: skip
    _print_table(f"{name} in {root}", rows)
    notes = [f"{each.split}: {note}." for each in splits for note in (each.notes if each.state != WRONG else ())]
    notes += [f"{archive}: {'as released' if whole else 'not the released file, download it again'}."
              for archive, whole in archives_of(card, root).items()]  # fmt: skip
    missing = [each.split for each in splits if each.state == MISSING]
    notes += [f"not there: {', '.join(missing)} ({how_to_get(card)})."] if missing else []
    print("\n".join(map(printable, notes)))
    _refuse(splits, f"{root}: has no split of {name}; give the folder that holds it as root.")
    return [row | {"notes": list(each.notes)} for row, each in zip(rows, splits, strict=True)]


def _refuse(splits: Sequence[SplitStatus], nothing: str) -> None:
    """Raise UserError if a split is wrong, with what is wrong in the first, or if nothing is there."""
    wrong = [each for each in splits if each.state == WRONG]
    if wrong:
        others = f"; wrong as well: {', '.join(each.split for each in wrong[1:])}" if len(wrong) > 1 else ""
        raise UserError(f"split {wrong[0].split}: {wrong[0].notes[-1].rstrip('.')}{others}.")
    if all(each.state == MISSING for each in splits):
        raise NotThere(nothing)


def _check_built(root: Path) -> list[dict[str, Any]]:
    """Compare a built RefMoji with its rules."""
    if not (root / "dataset.json").exists():
        raise UserError(f"{root}: no finished RefMoji (dataset.json is missing); {_advice(root)}.")
    rows = check_refmoji(root)
    kinds = sum((Counter(row["kinds"]) for row in rows), Counter())
    shown = [key for key in rows[0] if key not in ("split", "styles", "kinds")]
    _print_table(
        str(root), [{"split": row["split"], "state": FOUND} | {key: row[key] for key in shown} for row in rows]
    )
    print(printable("kinds of expressions: " + ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())))
    return rows


def _advice(root: Path) -> str:
    """What to do with a folder that holds no RefMoji."""
    if root.is_dir() and (any(root.glob("**/refs(*")) or (root / "instances.json").exists()):
        return f"check other data with `genseg data check NAME root={root}`"
    if root.is_dir() and any(root.iterdir()):
        return "it holds other files, so give the folder of a build, or an empty one to `genseg data build`"
    return f"build it with `genseg data build root={root}`"


def show(
    root: Path | str,
    split: str | None,
    out: Path | str,
    count: int = 24,
    name: str = "refmoji",
    seed: int = 0,
    **where: str,
) -> Path:
    """Write a contact sheet (PNG) of `count` referents of a split, chosen by `seed`; returns its path. where: images
    and split_by, if they are not the card's."""
    dataset = open_dataset(name, root, split, **where)
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.permutation(len(dataset))[: max(1, count)].tolist())
    out = write_image(contact_sheet([dataset[index] for index in chosen]), Path(out))
    print(printable(f"{len(chosen)} of {len(dataset)} referents of {dataset.split}: {out}"))
    return out


def export_rows(
    root: Path | str, split: str | None, form: str, out: Path | str, limit: int = 0, name: str = "refmoji", **where: str
) -> dict[str, int]:
    """Write a split as training rows of a method, a new folder `out`; returns what `bench.data.export` counts."""
    counts = export(open_dataset(name, root, split, **where), form, Path(out), limit)
    told = ", ".join(f"{count:,} {key}" for key, count in counts.items())
    print(printable(f"{told}: {out} (train on them with data.dataset=conversations data.root={out})"))
    return counts


Side = tuple[str, Path, str | None, dict[str, str]]  # a dataset's name, root, split, and images, split_by


def show_overlap(first: Side, second: Side, out: Path) -> list[Pair]:
    """Print how many images two datasets share by what they show, and write the pairs to `out`, a line each."""
    check_lines(out, ("first", "second"))
    looks = []
    for name, root, split, where in (first, second):
        dataset = open_dataset(name, root, split, with_images=False, **where)
        looks.append(looks_of(dataset.image_paths()))
        failed = looks[-1].unreadable
        told = f"; {len(failed):,} cannot be read, such as {failed[0]}" if failed else ""
        print(printable(f"{dataset.name} {dataset.split}: {len(looks[-1].paths):,} images{told}"))
    pairs = list(shared_images(*looks))
    write_lines(out, ({"first": str(pair.first), "second": str(pair.second), "difference": pair.difference}
                      for pair in pairs))  # fmt: skip
    shared = len({pair.second for pair in pairs})
    print(printable(f"{shared:,} images of the second show what the first holds; the pairs are in {out}"))
    return pairs


def _print_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(title=cell(title))
    for number, name in enumerate(rows[0] if rows else ()):
        table.add_column(cell(name), no_wrap=number == 0)
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else cell(value) for value in row.values()))
    Console().print(table)
