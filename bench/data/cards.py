"""Dataset cards: `datasets/<name>.yaml` says what a dataset is, where it comes from and how it is read."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from bench.assets import asset
from bench.data.dataset import Dataset
from bench.data.readers import READERS
from bench.data.readers.places import NotThere
from methods.base import UserError
from methods.files import fill, fits, nearest, quoted, read_text

FOLDER = asset("datasets")
KINDS = ("synthetic", "real")
COUNTED = ("images", "referents", "expressions")
DIGESTS = {"md5": "[0-9a-f]{32}", "sha256": "[0-9a-f]{64}"}
REPAIR = "correct the card"


@dataclass(frozen=True)
class Card:
    """What a card says.

    reader: the form of its files, one of READERS, or several in which people have them. splits: what is in each.
    counts: of a released split, images, referents (samples) and expressions. counts_source: who publishes these; "" if
    nobody was found who does. archives: a release's files and their
    digests, as "md5 0d..." or "sha256 7f...". defaults: root, split and level. options: what the readers that know them
    are told of the benchmark's own rules (such as split_by). wants: what is asked, where the form does not say.
    """

    name: str
    title: str
    kind: str  # one of KINDS
    reader: str | Sequence[str]
    licence: str
    splits: Mapping[str, str]
    source: str = ""
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    counts_source: str = ""
    archives: Mapping[str, str] = field(default_factory=dict)
    levels: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def readers(self) -> tuple[str, ...]:
        """The forms of its files."""
        return (self.reader,) if isinstance(self.reader, str) else tuple(self.reader)

    @property
    def serves(self) -> str:
        """What its samples teach and test."""
        return READERS[self.readers[0]].serves


def card_names() -> list[str]:
    """The names of all cards."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_card(name: str) -> Card:
    """The card of that name. Raises UserError with the known names, or with what is wrong in the card."""
    if name not in card_names():
        raise UserError(f"There is no dataset {name!r}{nearest(name, card_names())}; choose one of these.")
    path = FOLDER / f"{name}.yaml"
    try:
        row = yaml.safe_load(read_text(path, REPAIR))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a dataset card ({' '.join(str(error).split())}); {REPAIR}.") from None
    card = fill(Card, row, path, REPAIR)
    fault = _fault(card)
    if fault:
        raise UserError(f"{path}: {fault}.")
    return replace(card, levels=tuple(card.levels))


def _fault(card: Card) -> str | None:
    """What is wrong in a card, and the repair."""
    for value, known in ((card.kind, KINDS), *((reader, READERS) for reader in card.readers)):
        if value not in known:
            return f"{value!r} is unknown; use one of {', '.join(known)}"
    for archive, digest in card.archives.items():
        kind, _, value = digest.partition(" ")
        if not re.fullmatch(DIGESTS.get(kind, "-"), value):
            return f"the digest of {archive} is none of {', '.join(DIGESTS)}; {REPAIR}"
    options = {key: get_type_hints(READERS[reader].__init__).get(key, Any)
               for reader in card.readers for key in inspect.signature(READERS[reader]).parameters}  # fmt: skip
    for found, allowed in ((card.counts, card.splits), *((each, COUNTED) for each in card.counts.values()),
                           (card.options, options)):  # fmt: skip
        if unknown := [key for key in found if key not in allowed]:
            return f"{unknown[0]!r} is unknown; use one of {', '.join(sorted(allowed))}"
    for name, value in card.options.items():
        texts = [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]
        if not fits(value, options[name]) or not all(map(_stays, texts)):
            return f"the option {name} is {quoted(value)}, which its reader does not take; {REPAIR}"
    return None if card.readers and card.splits else f"no reader or no split; {REPAIR}"


def _stays(text: str) -> bool:
    """Whether a text can be a part of a path that does not leave the dataset's folder."""
    return bool(text) and "\0" not in text and not Path(text).is_absolute() and ".." not in Path(text).parts


def open_dataset(
    name: str, root: Path | str | None = None, split: str | None = None, with_images: bool = True, **options: Any
) -> Dataset:
    """The dataset of that name under `root`, in whichever of the card's forms its files are there. `reader="captions"`
    opens its questions instead of its referents; other options go to the reader, those that are empty aside. Root,
    split and the benchmark's own rules default to the card's. with_images: without, the images need not be there, if
    the reader can do without them."""
    card = load_card(name)
    root = root if root is not None else card.defaults.get("root")
    if root is None:
        raise UserError(
            f"Dataset {name!r} is not embedded: give root, the folder it was downloaded to ({card.source})."
        )
    split = split or card.defaults.get("split") or next(iter(card.splits), "")
    if split not in card.splits:
        names = ", ".join(card.splits)
        raise UserError(f"Dataset {name!r} has no split {split!r}{nearest(split, card.splits)}; choose from {names}.")
    reader = options.pop("reader", None) or reader_of(card, root, split)
    given = {key: value for key, value in options.items() if value not in (None, "", [], False)}
    known = inspect.signature(READERS[reader]).parameters
    if reader in card.readers:
        given = {key: value for key, value in card.options.items() if key in known} | given
    if not with_images and "opens_images" in known:
        given["opens_images"] = False
    for key in given.keys() - known.keys():
        raise UserError(f"Dataset {name!r} has no {key}; it is read by {reader}, which has no such option.")
    kind: Any = READERS[reader]  # whose options were checked above
    dataset: Dataset = kind(root, split, name=name, **given)
    dataset.card, dataset.name = name, label_of(name, given.get("split_by"))
    dataset.wants = tuple(card.wants) or dataset.wants
    return dataset


def reader_of(card: Card, root: Path | str, split: str) -> str:
    """The form in which a split is there, of those that the card has. Raises UserError if it is there in several, and
    NotThere if in none of several."""
    if len(card.readers) == 1:
        return card.readers[0]
    found = {reader: place for reader in card.readers if (place := READERS[reader].find(root, card.name, split))}
    if len(found) > 1:
        places = " and ".join(map(str, found.values()))
        raise UserError(f"{root}: holds {card.name} {split} in several forms ({places}); give one of them as root.")
    if not found:
        raise NotThere(f"{root}: has no {card.name} {split}; it may be there as {layout_of(card)}.")
    return next(iter(found))


def layout_of(card: Card) -> str:
    """How the files of a dataset lie under <root>, in each of its forms."""
    values = _Values(
        {key: ", ".join(map(str, value)) if isinstance(value, list) else value for key, value in card.options.items()}
    )
    values["name"] = card.name
    return "; or ".join(READERS[reader].layout.format_map(values) for reader in card.readers)


class _Values(dict[str, Any]):
    """What layouts name; <key> for what a card leaves open."""

    def __missing__(self, key: str) -> str:
        return f"<{key}>"


def label_of(name: str, split_by: str | None) -> str:
    """The name under which a dataset stands in records and file names: the card's, with the division into splits
    behind it where that is not the card's own. Raises UserError if another dataset has that name."""
    label = name if split_by in (None, "", load_card(name).options.get("split_by")) else f"{name}-{split_by}"
    if label != name and label in card_names():
        raise UserError(f"{name} divided by {split_by} would have the name of dataset {label!r}; rename that card.")
    return label


def of_label(label: str) -> tuple[str, str]:
    """The inverse: the card's name, and the division or nothing."""
    name, _, split_by = label.rpartition("-")
    return (name, split_by) if label not in card_names() and name in card_names() else (label, "")
