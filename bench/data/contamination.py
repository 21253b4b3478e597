"""The check of train/eval contamination: no image that is evaluated on is trained on unless the user says so.

RefCOCO and its relatives divide COCO's images differently, and lists of captions and questions hold them too. An
image is known by its number in COCO if its name has one, else by its path; none is opened.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.config import Profile
from bench.data.cards import load_card, open_dataset
from bench.data.dataset import Dataset
from bench.data.mixture import embedded
from bench.data.readers.places import NotThere
from bench.data.sampler import MixtureComponent
from methods.base import UserError

COCO = re.compile(r"(?:COCO_(?:train|val|test)20\d\d_)?(\d{12})\.jpg")


def refuse_contamination(profile: Profile, sources: Sequence[MixtureComponent]) -> None:
    """Raise UserError if an image of the sources lies in an evaluation split of `data.dataset`, unless the profile
    allows it."""
    evaluated = profile.data.dataset
    held = {} if profile.data.allow_contamination or embedded(evaluated) else _held_out(profile)
    shared: dict[int | str, Path] = {}
    guilty = []
    for source in sources if held else ():
        images = {key: path for dataset in source.datasets.values() for key, path in _images(dataset).items()}
        found = {key: path for key, path in images.items() if key in held}
        guilty += [source.name or evaluated] if found else []
        shared |= found
    if shared:
        counts = Counter(held[key] for key in shared)
        raise UserError(
            f"{len(shared)} training images of {', '.join(guilty)} are in evaluation splits of {evaluated} "
            f"({', '.join(f'{count} in {split}' for split, count in counts.items())}), such as "
            f"{next(iter(shared.values()))}; leave them out, or set data.allow_contamination=true to train on them."
        )


def _held_out(profile: Profile) -> dict[int | str, str]:
    """Image -> evaluation split; nothing for splits whose annotations are not there."""
    data = profile.data
    options: dict[str, Any] = {"images": data.images, "split_by": data.split_by}
    held: dict[int | str, str] = {}
    for split in load_card(data.dataset).splits:
        with suppress(NotThere):
            if split != "train":
                held |= dict.fromkeys(_images(open_dataset(data.dataset, data.root, split, **options)), split)
    return held


def _images(dataset: Dataset) -> dict[int | str, Path]:
    """The images of a dataset and where they lie, as its annotations say; none of one that is built here, whose
    splits are disjoint."""
    if embedded(dataset.card or dataset.name):
        return {}
    return {_key(path): path for path in dataset.image_paths()}


def _key(path: Path) -> int | str:
    number = COCO.fullmatch(path.name)
    return int(number[1]) if number else os.path.abspath(path)
