"""COCO panoptic: a JSON file of segments, and a PNG per image whose colour at a pixel is its segment's number.

`annotations/panoptic_<split>2017.json` has images, categories and, per image, {"file_name", "segments_info": [{"id",
"category_id", "iscrowd"}, ...]}; the number is red + 256 green + 65536 blue, 0 is void. A sample is a class that an
image shows, as in a semantic class query: the mask is the union of its segments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.readers.image_files import ImageFiles, checked_path, read_pixels
from bench.data.readers.places import NotThere, find_file
from bench.data.readers.referents import Referent, ReferentDataset, entry, side
from methods.base import UserError
from methods.files import quoted, read_object

MATERIALS = ("wall", "floor")  # whose names have what they are made of behind them
PLAIN = ("-merged", "-other", "-stuff")  # what COCO adds to names of classes


class PanopticDataset(ReferentDataset):
    """One Example per image and class in the order of the file; `expressions` is the class's name as one says it,
    `category` its name in the file, `ignore` the void. `ref_id` is <image id>/<class>. A class of which an image shows
    a crowd counts with it.

    `root` is the JSON file or the folder above `annotations`; its PNG files lie beside it in a folder of its name.
    images: the folder of the images (default: <split>2017 in `root`). limit: the first samples only.
    """

    layout = "annotations/panoptic_<split>2017.json with annotations/panoptic_<split>2017/ in <root>"

    def __init__(
        self, root: Path | str, split: str, name: str = "coco-panoptic", images: Path | str | None = None,
        limit: int | None = None, opens_images: bool = True,
    ) -> None:  # fmt: skip
        path = find_file(root, [f"panoptic_{split}2017.json"], ["annotations"])
        if path is None:
            raise NotThere(f"{root}: has no annotations/panoptic_{split}2017.json; give the folder that holds it.")
        content = read_object(path, "get the file again")
        self._segments: dict[int | str, tuple[int, ...]] = {}
        self._last: tuple[str, np.ndarray] = ("", np.zeros((0, 0), np.int32))
        try:
            names = {entry(row, "id", int): entry(row, "name", str) for row in entry(content, "categories", list)}
            sizes = {entry(row, "id", int): row for row in entry(content, "images", list)}
            referents = [each for row in entry(content, "annotations", list) for each in self._read(row, sizes, names)]
        except ValueError as error:
            raise UserError(f"{path}: {error}; get the file again.") from None
        self.classes = tuple(dict.fromkeys(names.values()))
        place = Path(images) if images else path.parent.parent / f"{split}2017"
        super().__init__(name, split, path, ImageFiles(place, opens_images), referents[:limit])

    def _read(self, row: Any, images: Mapping[int, Any], names: Mapping[int, str]) -> Iterator[Referent]:
        """The samples of an image. Raises ValueError saying what is wrong."""
        number = entry(row, "image_id", int)
        image = images.get(number)
        if image is None:
            raise ValueError(f"an annotation names image {number}, which is not listed")
        size, file = (side(image, "height"), side(image, "width")), entry(image, "file_name", str)
        of_class: dict[str, list[int]] = {}
        for segment in entry(row, "segments_info", list):
            category = entry(segment, "category_id", int)
            if category not in names:
                raise ValueError(f"image {number} has a segment of category {quoted(category)}, which is not listed")
            of_class.setdefault(names[category], []).append(entry(segment, "id", int))
        for category, segments in of_class.items():
            key = f"{number}/{category}"
            self._segments[key] = tuple(segments)
            yield Referent(key, number, file, size, (spoken(category),), (0,), category=category,
                           facts={"png": entry(row, "file_name", str)})  # fmt: skip

    def masks(self, referent: Referent) -> tuple[np.ndarray, np.ndarray]:
        numbers = self._numbers(referent)
        return np.isin(numbers, self._segments[referent.ref_id]), numbers == 0

    def check(self, indices: Any = None) -> None:
        super().check(indices)
        for referent in {referent.image: referent for referent in self._chosen(indices)}.values():
            self._numbers(referent)

    def _numbers(self, referent: Referent) -> np.ndarray:
        """int32 [H, W]: the segment at each pixel."""
        if self._last[0] != referent.facts["png"]:
            path = checked_path(self.path.with_suffix(""), referent.facts["png"], self.where(referent))
            colours = read_pixels(path, self.where(referent), lambda image: np.array(image.convert("RGB"), np.int32))
            if colours.shape[:2] != referent.size:
                raise UserError(f"{path}: is not of the size that {self.path.name} records; use files of one release.")
            self._last = referent.facts["png"], colours @ np.array([1, 256, 65536], np.int32)
        return self._last[1]


def spoken(name: str) -> str:
    """A class's name as one says it: "wall-other-merged" is "wall", "wall-brick" "brick wall", "door-stuff" "door"."""
    for ending in PLAIN:
        name = name.replace(ending, "")
    words = name.split("-")
    return " ".join(reversed(words) if words[0] in MATERIALS else words)


READER = PanopticDataset
