"""What of a dataset is on this disk: for each split of a card what is found, missing or wrong, and how to mend it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.data.cards import COUNTED, Card, layout_of, open_dataset
from bench.data.dataset import Dataset
from bench.data.readers import READERS
from bench.data.readers.places import NotThere
from methods.base import UserError

FOUND, INCOMPLETE, MISSING, WRONG = "found", "images missing", "missing", "wrong"
BLOCK = 1 << 22  # bytes read at once for a digest


@dataclass(frozen=True)
class SplitStatus:
    """state: one of the four above. form: the reader of its files. counts: images, referents, expressions, and
    referents without a target. notes: what is remarkable, wrong, or to be done, a sentence each."""

    split: str
    state: str
    form: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def status_of(card: Card, root: Path | str, where: Mapping[str, str]) -> list[SplitStatus]:
    """The status of every split. where: images and split_by, if they are not the card's."""
    return [split_status(card, root, split, where) for split in card.splits]


def split_status(card: Card, root: Path | str, split: str, where: Mapping[str, Any]) -> SplitStatus:
    """The status of one split."""
    try:
        dataset = open_dataset(card.name, root, split, **where)
    except NotThere:
        return SplitStatus(split, MISSING)
    except UserError as error:
        return SplitStatus(split, WRONG, notes=(str(error),))
    form = next((name for name, reader in READERS.items() if type(dataset) is reader), "")
    counts, notes, absent = counts_of(dataset), [], []
    try:
        absent = dataset.missing_images()
        if absent:
            total, repair = len(set(dataset.image_paths())), "get them, or give images=<the folder that holds them>"
            notes.append(f"{len(absent)} of {total} images are missing, such as {absent[0]}; {repair}")
            dataset = open_dataset(card.name, root, split, with_images=False, **where)
        dataset.check()
    except UserError as error:
        return SplitStatus(split, INCOMPLETE if absent else WRONG, form, counts, (*notes, str(error)))
    notes += _differences(card, split, counts) if dataset.name == card.name else []
    return SplitStatus(split, INCOMPLETE if absent else FOUND, form, counts, (*notes, *dataset.remarks()))


def counts_of(dataset: Dataset) -> dict[str, int]:
    """images, referents, expressions and "no target" of a split."""
    infos = [dataset.info(index) for index in range(len(dataset))]
    return {"images": len({info.image_id for info in infos}), "referents": len(infos),
            "expressions": sum(len(info.expressions) for info in infos),
            "no target": sum(info.no_target for info in infos)}  # fmt: skip


def _differences(card: Card, split: str, counts: Mapping[str, int]) -> list[str]:
    """Where a split is not as long as the released one."""
    released = card.counts.get(split, {})
    known = "the release has {:,}" if card.counts_source else "{:,} are expected, a number that no source confirms"
    return [f"{counts[key]:,} {key}, but {known.format(released[key])}"
            for key in COUNTED if key in released and counts[key] != released[key]]  # fmt: skip


def archives_of(card: Card, root: Path | str, names: Iterable[str] = ()) -> dict[str, bool]:
    """The archives of the release (or those of these names) that lie in `root`, and whether each is the released
    file."""
    found = {}
    for name in names or card.archives:
        path, (kind, expected) = Path(root) / name, card.archives[name].split()
        if path.is_file():
            total = hashlib.new(kind, usedforsecurity=False)
            with path.open("rb") as file:
                while block := file.read(BLOCK):
                    total.update(block)
            found[name] = total.hexdigest() == expected
    return found


def how_to_get(card: Card) -> str:
    """Where a dataset comes from and how its files lie, in a sentence."""
    return f"source: {card.source}; layout: {layout_of(card)}"
