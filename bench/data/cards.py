"""Dataset cards: `datasets/<name>.yaml` says what a dataset is, where it comes from and how it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bench.data.captions import CaptionDataset
from bench.data.folder import FolderDataset
from bench.data.refer import ReferDataset
from methods.base import UserError

FOLDER = Path(__file__).resolve().parents[2] / "datasets"
RULES = ("split_by", "skip_crowd")  # of a card's defaults, those that its reader is told
READERS = {"refer": ReferDataset, "captions": CaptionDataset, "folder": FolderDataset}


@dataclass(frozen=True)
class Card:
    """What a card says. `splits` maps a split to what is in it, `defaults` gives options of the reader."""

    name: str
    title: str
    kind: str  # synthetic or real
    reader: str
    licence: str
    splits: Mapping[str, str]
    source: str = ""
    levels: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


def card_names() -> list[str]:
    """The names of all cards."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_card(name: str) -> Card:
    """The card of that name, or a UserError that lists the names."""
    if name not in card_names():
        raise UserError(f"There is no dataset {name!r}; known are {', '.join(card_names())}.")
    path = FOLDER / f"{name}.yaml"
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
        card = Card(**{**fields, "levels": tuple(fields.get("levels", ()))})
    except (yaml.YAMLError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a dataset card ({error}); correct its fields.") from None
    if card.reader not in READERS:
        raise UserError(f"{path}: reader {card.reader!r} is unknown; use one of {', '.join(READERS)}.")
    return card


def open_dataset(
    name: str, root: Path | str | None = None, split: str | None = None, **options: Any
) -> ReferDataset | CaptionDataset | FolderDataset:
    """The dataset of that name under `root`. `reader="captions"` opens its questions instead of its referents;
    other options go to the reader, those that are empty aside. Root, split and what the reader is told of a benchmark's
    own rules default to the card's."""
    card = load_card(name)
    reader = READERS[options.pop("reader", card.reader)]
    root = root if root is not None else card.defaults.get("root")
    if root is None:
        raise UserError(
            f"Dataset {name!r} is not embedded: give root, the folder it was downloaded to ({card.source})."
        )
    split = split or card.defaults["split"]
    if split not in card.splits:
        raise UserError(f"Dataset {name!r} has no split {split!r}; choose from {', '.join(card.splits)}.")
    given = {key: value for key, value in options.items() if value not in (None, "", [])}
    if reader is ReferDataset:
        given = {key: card.defaults[key] for key in RULES if key in card.defaults} | given
    dataset = reader(root, split, name=name, **given)
    dataset.card, dataset.name = name, label_of(name, given.get("split_by"))
    return dataset


def label_of(name: str, split_by: str | None) -> str:
    """The name under which a dataset stands in records and file names: the card's, with the division into splits
    behind it where that is not the card's own."""
    own = load_card(name).defaults.get("split_by")
    return name if split_by in (None, "", own) else f"{name}-{split_by}"
