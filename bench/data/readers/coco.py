"""COCO's instance annotations, and whatever has their form (COCO-ReM, PartImageNet, your own masks): class queries, or
single objects.

A JSON file with "images" (id, file_name, width, height), "annotations" (id, image_id, category_id, bbox, segmentation)
and "categories" (id, name).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.data.boxes import coco_union
from bench.data.readers.image_files import ImageFiles, Size
from bench.data.readers.places import NotThere, find_file, images_beside
from bench.data.readers.referents import Referent, ReferentDataset, entry, side
from methods.base import UserError
from methods.files import quoted, read_object

ASK = ("class", "object")


class CocoDataset(ReferentDataset):
    """ask: "class", a sample for every class that an image shows, the union of its objects, crowds included; or
    "object", one for every annotation that is no crowd, whose expression is its class's name though others may have it
    too: for tasks that point at it with a box or points, and for mask tokenizers.

    `ref_id` is <image id>/<class>, or the annotation's id. file: the annotations' path, with {split} in it; `root` may
    also be the file. folder: of the images, with {split}, unless `images` is given. limit: the first samples only.
    """

    layout = "{file} with {folder}/ in <root>"

    def __init__(
        self, root: Path | str, split: str, name: str = "coco", images: Path | str | None = None,
        file: str = "annotations/instances_{split}2017.json", folder: str = "{split}2017", ask: str = "class",
        limit: int | None = None, opens_images: bool = True,
    ) -> None:  # fmt: skip
        if ask not in ASK:
            raise UserError(f"There is no ask={ask!r}; choose from {', '.join(ASK)}.")
        wanted = file.replace("{split}", split)
        path = find_file(root, [wanted])
        if path is None:
            raise NotThere(f"{root}: has no {wanted}; give the folder that holds it.")
        content = read_object(path, "get the file again")
        try:
            names = {entry(row, "id", int): entry(row, "name", str) for row in entry(content, "categories", list)}
            found = _by_image(content, names)
            referents = [each for listed, rows in found for each in self.referents_of(ask, listed, rows, names)]
        except ValueError as error:
            raise UserError(f"{path}: {error}; correct it, or get the file again.") from None
        self.classes = tuple(dict.fromkeys(names.values()))
        inside = None if Path(root).is_file() else Path(root) / folder.replace("{split}", split)
        place = images_beside(path, images or inside)
        super().__init__(name, split, path, ImageFiles(place, opens_images), referents[:limit])

    @staticmethod
    def referents_of(ask: str, listed: Listed, rows: list[Any], names: dict[int, str]) -> Iterator[Referent]:
        """The samples of an image with its annotations. Raises ValueError saying what is wrong in them."""
        return (_classes if ask == "class" else _objects)(*listed, rows, names)


Listed = tuple[int | str, str, Size]  # an image's id, file name, and (H, W)


def _by_image(content: dict[str, Any], names: dict[int, str]) -> list[tuple[Listed, list[Any]]]:
    """The images that have annotations, with these. Raises ValueError saying what is wrong."""
    images = {identifier(row, "id"): (entry(row, "file_name", str), (side(row, "height"), side(row, "width")))
              for row in entry(content, "images", list)}  # fmt: skip
    found: dict[int | str, list[Any]] = {}
    for row in entry(content, "annotations", list):
        if entry(row, "category_id", int) not in names or identifier(row, "image_id") not in images:
            raise ValueError(f"annotation {quoted(row.get('id'))} is of an image or category that is not listed")
        found.setdefault(row["image_id"], []).append(row)
    return [((key, *images[key]), rows) for key, rows in found.items()]


def identifier(row: Any, key: str) -> int | str:
    """A number or text by which a row is known. Raises ValueError if it has none."""
    value = entry(row, key, object)
    if not isinstance(value, int | str):
        raise ValueError(f"no usable {key} ({quoted(value)} is neither a number nor text)")
    return value


def _classes(key: Any, image: str, size: Any, rows: list[Any], names: dict[int, str]) -> Iterator[Referent]:
    """A referent for every class of an image."""
    for name in dict.fromkeys(names[row["category_id"]] for row in rows):
        own = [row for row in rows if names[row["category_id"]] == name]
        parts = tuple(entry(row, "segmentation", object) for row in own)
        box = coco_union([row.get("bbox") for row in own])
        yield Referent(f"{key}/{name}", key, image, size, (name,), (0,), parts, box, category=name,
                       facts={"targets": len(own), "category": name})  # fmt: skip


def _objects(key: Any, image: str, size: Any, rows: list[Any], names: dict[int, str]) -> Iterator[Referent]:
    """A referent for every annotation of an image that is no crowd."""
    for row in rows:
        if not row.get("iscrowd"):
            name, parts = names[row["category_id"]], (entry(row, "segmentation", object),)
            yield Referent(identifier(row, "id"), key, image, size, (name,), (0,), parts, coco_union([row.get("bbox")]),
                           category=name, facts={"targets": 1, "category": name})  # fmt: skip


READER = CocoDataset
