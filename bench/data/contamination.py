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

from bench.config import Profile
from bench.data.cards import load_card
from bench.data.dataset import Dataset
from bench.data.mixture import embedded
from bench.data.readers.places import NotThere
from bench.data.sampler import MixtureComponent
from bench.data.splits import Benchmark, benchmarks_of, open_split, own_benchmark
from methods.base import UserError

COCO = re.compile(r"(?:COCO_(?:train|val|test)20\d\d_)?(\d{12})\.jpg")


def refuse_contamination(profile: Profile, sources: Sequence[MixtureComponent]) -> None:
    """Raise UserError if an image of the sources lies in an evaluation split of a dataset that the profile evaluates
    on, unless it allows that."""
    held = {} if profile.data.allow_contamination else _held_out(profile)
    evaluated = ", ".join(dict.fromkeys(each.dataset for each in _evaluated(profile)))
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
    held: dict[int | str, str] = {}
    for benchmark in _evaluated(profile):
        for split in load_card(benchmark.dataset).splits:
            with suppress(NotThere):
                if split != "train":
                    held |= dict.fromkeys(_images(open_split(benchmark, split)), split)
    return held


def _evaluated(profile: Profile) -> list[Benchmark]:
    """The datasets that the profile evaluates on, but for one that is built here, whose splits are disjoint."""
    every = [own_benchmark(profile), *benchmarks_of(profile)] if profile.evaluate.datasets else [own_benchmark(profile)]
    return [benchmark for benchmark in every if not embedded(benchmark.dataset)]


def _images(dataset: Dataset) -> dict[int | str, Path]:
    """The images of a dataset and where they lie, as its annotations say; none of one that is built here, whose
    splits are disjoint."""
    if embedded(dataset.card or dataset.name):
        return {}
    return {_key(path): path for path in dataset.image_paths()}


def _key(path: Path) -> int | str:
    number = COCO.fullmatch(path.name)
    return int(number[1]) if number else os.path.abspath(path)
