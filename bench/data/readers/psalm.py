"""RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO as PSALM converted them, which HiMTok's and ARGenSeg's evaluations read.

`<name>_<split>.json` is a list with an item per object: {"image_info": {"file_name", "height", "width"}, "instruction":
[{"sent"}, ...], "anns": [{"segmentation", "bbox"}, ...]}. The ground truth is the union of the annotations, crowds
included, as in those evaluations; an item without annotations refers to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.data.boxes import coco_union
from bench.data.readers.image_files import ImageFiles
from bench.data.readers.places import NotThere, find_file, images_beside
from bench.data.readers.referents import Referent, ReferentDataset, entry, side, worded
from methods.base import UserError
from methods.files import quoted, read_json


class PsalmDataset(ReferentDataset):
    """One Example per item with its sentences; `ref_id` is the item's place in the file, from 0.

    `root` is the file, its folder, or a folder above (<name>, res/<name>, refcoco/<name>); `images` the folder of the
    images (default: `images` beside the file). Items without a sentence are left out, and counted. limit: the first
    referents only.
    """

    layout = "{name}_<split>.json in <root>, <root>/{name} or <root>/res/{name}"

    def __init__(
        self, root: Path | str, split: str, name: str = "refcoco", images: Path | str | None = None,
        limit: int | None = None, opens_images: bool = True,
    ) -> None:  # fmt: skip
        path = self.find(root, name, split)
        if path is None:
            raise NotThere(f"{root}: has no {name}_{split}.json; give the folder that holds it.")
        items = read_json(path, "get the file again")
        if not isinstance(items, list):
            raise UserError(f"{path}: not a list of items with image_info, instruction and anns; get the file again.")
        self._wordless = self._crowds = self._empty = 0
        referents = list(self._read(items, path))[:limit]
        super().__init__(name, split, path, ImageFiles(images_beside(path, images), opens_images), referents)

    @classmethod
    def find(cls, root: Path | str, name: str, split: str) -> Path | None:
        return find_file(root, [f"{name}_{split}.json"], [name, f"res/{name}", f"refcoco/{name}"])

    def _read(self, items: list[Any], path: Path) -> Iterator[Referent]:
        for number, item in enumerate(items):
            try:
                referent = _referent(number, item)
            except ValueError as error:
                raise UserError(f"{path}: item {number} has {error}; correct or remove it.") from None
            if not referent.expressions:
                self._wordless += 1
                continue
            self._crowds += sum(bool(annotation.get("iscrowd")) for annotation in item["anns"])
            self._empty += bool(referent.parts) and not any(referent.parts)
            yield referent

    def remarks(self) -> list[str]:
        found = super().remarks()
        if self._wordless:
            found.append(f"{self._wordless} items without instruction are not asked")
        if self._crowds:
            found.append(f"{self._crowds} crowd annotations are part of the ground truth, as in the official "
                         "evaluations")  # fmt: skip
        if self._empty:
            found.append(f"{self._empty} items have annotations of nothing but empty segmentations: an empty mask")
        return found


def _referent(number: int, item: Any) -> Referent:
    """The referent of an item. Raises ValueError saying what is wrong with it."""
    info, anns = entry(item, "image_info", dict), entry(item, "anns", list)
    sentences = [entry(sentence, "sent", str) for sentence in entry(item, "instruction", list)]
    expressions, positions = worded(sentences)
    image, size = entry(info, "file_name", str), (side(info, "height"), side(info, "width"))
    parts = tuple(entry(annotation, "segmentation", object) for annotation in anns)
    identity = info.get("id", image)
    if not isinstance(identity, int | str):
        raise ValueError(f"the image id {quoted(identity)}")
    box = coco_union([annotation.get("bbox") for annotation in anns])
    return Referent(
        number, identity, image, size, expressions, positions, parts, box, no_target=not anns,
        facts={"targets": len(anns)},
    )  # fmt: skip


READER = PsalmDataset
