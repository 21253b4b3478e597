"""Boxes alone in the form of COCO's instance annotations, as Objects365 has them: words for a box where they are
unambiguous."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.data.boxes import coco_union
from bench.data.readers.coco import CocoDataset, Listed, identifier
from bench.data.readers.referents import Referent
from methods.files import quoted


class DetectionDataset(CocoDataset):
    """One Example for every class that an image shows exactly once, with its box and no mask: of two chairs "chair"
    names neither. Groups of objects that were annotated as one (iscrowd) count as several.

    `ref_id` is the annotation's id. file: the annotations' path, with {split} in it; `root` may also be the file.
    folder: of the images, with {split}, unless `images` is given. limit: the first samples only.
    """

    serves, task, wants = "boxes", "ground", ("box",)

    def __init__(
        self, root: Path | str, split: str, name: str = "objects365", images: Path | str | None = None,
        file: str = "annotations/instances_{split}2017.json", folder: str = "{split}2017",
        limit: int | None = None, opens_images: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(root, split, name, images, file, folder, "class", limit, opens_images)

    @staticmethod
    def referents_of(ask: str, listed: Listed, rows: list[Any], names: dict[int, str]) -> Iterator[Referent]:
        key, image, size = listed
        shown = Counter({row["category_id"]: 0 for row in rows})
        for row in rows:
            shown[row["category_id"]] += 2 if row.get("iscrowd") else 1
        for row in (row for row in rows if shown[row["category_id"]] == 1):
            box, name = coco_union([row.get("bbox")]), names[row["category_id"]]
            if box is None or not (box[0] < box[2] and box[1] < box[3]):
                raise ValueError(f"annotation {quoted(row.get('id'))} has the bbox {quoted(row.get('bbox'))}, which is "
                                 f"none")  # fmt: skip
            yield Referent(identifier(row, "id"), key, image, size, (name,), (0,), box=box, category=name,
                           facts={"targets": 1, "category": name})  # fmt: skip

    def masks(self, referent: Referent) -> tuple[None, None]:
        return None, None


READER = DetectionDataset
