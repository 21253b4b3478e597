"""Checking a built dataset: files, masks, boxes, words. The first broken sample ends the check with one sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.readers.referents import SMALL
from bench.data.rle import rasterize
from bench.refmoji.build import CAPTIONS, INSTANCES, REFS, SUMMARY, read_json
from bench.refmoji.draft import pack_of
from bench.refmoji.levels import Level, classes, level_named
from bench.refmoji.manifest import verify
from bench.refmoji.phrases import LOCATION_WORDS
from bench.refmoji.seen import View, view_of
from bench.refmoji.special import holds
from methods.base import UserError
from methods.images import UNREADABLE, open_header

REGENERATED = 3  # scenes per evaluation split that are made again from their seeds


@dataclass
class Tally:
    """What was counted in one split."""

    images: int = 0
    objects: int = 0
    referents: int = 0
    sentences: int = 0
    single: int = 0  # referents that are one object
    small: int = 0  # referents below 4 % of the image
    twins: int = 0  # referents with another object of their class
    covered: int = 0  # referents of which less than 90 % is visible
    kinds: Counter[str] = field(default_factory=Counter)
    styles: Counter[str] = field(default_factory=Counter)

    def row(self, split: str) -> dict[str, Any]:
        """One line of the summary table; shares are of the referents that are one object."""
        count = max(1, self.single)
        return {
            "split": split, "images": self.images, "objects": round(self.objects / max(1, self.images), 2),
            "referents": self.referents, "sentences": self.sentences, "small": round(self.small / count, 3),
            "same class": round(self.twins / count, 3), "occluded": round(self.covered / count, 3),
            "styles": dict(self.styles.most_common()), "kinds": dict(self.kinds.most_common()),
        }  # fmt: skip


def check_refmoji(root: Path) -> list[dict[str, Any]]:
    """Check every sample of a built RefMoji; returns one table row per split. UserError at the first broken one."""
    summary, data = read_json(root / SUMMARY), read_json(root / INSTANCES)
    refs, captions = read_json(root / REFS), read_json(root / CAPTIONS)
    level = level_named(summary["level"])
    images = {image["id"]: image for image in data["images"]}
    names = {category["id"]: category for category in data["categories"]}
    by_image: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in images}
    for annotation in data["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    tallies: dict[str, Tally] = {}
    views: dict[int, View] = {}
    for image_id, image in images.items():
        _check_image(root, image, by_image[image_id], names)
        views[image_id] = view_of(image, by_image[image_id], pack_of(level, image["split"]))
        tally = tallies.setdefault(image["split"], Tally())
        tally.images += 1
        tally.objects += len(by_image[image_id])
    for ref in refs:
        _check_ref(root, ref, views[ref["image_id"]], level)
        _count(tallies[ref["split"]], ref, views[ref["image_id"]])
    for record in captions:
        if record["image_id"] not in images or not record["question"] or not record["answer"]:
            raise UserError(f"{root / CAPTIONS}: a question of image {record['image_id']} is empty; build it again.")
    _check_counts(root, summary, tallies)
    verify(level, REGENERATED)
    return [tally.row(split) for split, tally in tallies.items()]


def _check_image(root: Path, image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], names: Any) -> None:
    """The image opens at its size; masks have the stated areas and boxes, and none overlap."""
    path = root / "images" / image["file_name"]
    try:
        with open_header(path) as handle:
            handle.load()
            size = handle.size
    except UNREADABLE as error:
        raise UserError(f"{path}: unreadable image ({error}); delete the dataset and build it again.") from None
    if size != (image["width"], image["height"]):
        raise UserError(f"{path}: is {size[0]}x{size[1]}, not {image['width']}x{image['height']}; build it again.")
    taken = np.zeros((image["height"], image["width"]), bool)
    for annotation in annotations:
        try:
            mask = rasterize(annotation["segmentation"], image["height"], image["width"])
        except (ValueError, TypeError, OverflowError) as error:
            where = f"{root / INSTANCES}: annotation {annotation['id']}"
            raise UserError(f"{where} has an unusable segmentation ({error}); build it again.") from None
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x, y, width, height = annotation["bbox"]
        box = (columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0])
        if int(mask.sum()) != annotation["area"] or box != (x, y, width, height) or (taken & mask).any():
            raise UserError(
                f"{root / INSTANCES}: mask, area and box of annotation {annotation['id']} disagree; build it again."
            )
        if image["split"] != "novel" and names[annotation["category_id"]]["novel"]:
            raise UserError(
                f"{root / INSTANCES}: annotation {annotation['id']} shows a held-out class; build it again."
            )
        taken |= mask


def _check_ref(root: Path, ref: Mapping[str, Any], view: View, level: Level) -> None:
    """Every sentence means its objects and nothing else, and keeps to the rules of its style and split."""
    ids = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
    numbers = [ann_id - ref["image_id"] * 100 - 1 for ann_id in ids]
    where = f"{root / REFS}: referent {ref['ref_id']}"
    for sentence in ref["sentences"]:
        if not holds(view, numbers, sentence):
            raise UserError(f"{where}: {sentence['sent']!r} does not mean just its object; build the dataset again.")
        if sentence["style"] == "refcoco+" and LOCATION_WORDS & set(sentence["tokens"]):
            raise UserError(f"{where}: {sentence['sent']!r} says where, which refcoco+ forbids; build it again.")
    entries = [view.named(number).entry for number in numbers]
    people = [entry.person for entry in entries]
    novel = classes(level.name)[1]
    if ref["split"] == "testA" and not all(people) or ref["split"] == "testB" and any(people):
        raise UserError(f"{where}: is {entries[0].name!r}, which {ref['split']} must not ask for; build it again.")
    if ref["split"] == "novel" and not all(entry in novel for entry in entries):
        raise UserError(f"{where}: is {entries[0].name!r}, which is not held out; build it again.")


def _count(tally: Tally, ref: Mapping[str, Any], view: View) -> None:
    tally.referents += 1
    tally.sentences += len(ref["sentences"])
    tally.kinds.update(sentence["kind"] for sentence in ref["sentences"])
    tally.styles.update(sentence["style"] for sentence in ref["sentences"])
    if isinstance(ref["ann_id"], int):
        tally.single += 1
        target = view.named(ref["ann_id"] - ref["image_id"] * 100 - 1)
        tally.small += target.area < SMALL * view.area
        tally.covered += target.visibility < 0.9
        tally.twins += sum(item.entry.head == target.entry.head for item in view.objects) > 1


def _check_counts(root: Path, summary: Mapping[str, Any], tallies: Mapping[str, Tally]) -> None:
    found = {
        split: {"images": tally.images, "referents": tally.referents, "sentences": tally.sentences}
        for split, tally in tallies.items()
    }
    if found != summary["counts"]:
        raise UserError(f"{root / SUMMARY}: counts {summary['counts']} are not those of the files; build it again.")
