"""Referring comprehension as Qwen-VL's files have it: a JSON line per expression, with the box that it means.

`<file>_<split>.jsonl`, each line {"image": path, "sent": expression, "bbox": [x1, y1, x2, y2] in pixels, "width",
"height"}. There are no masks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.data.boxes import PIXELS, is_box, out_of_range
from bench.data.readers.image_files import ImageFiles
from bench.data.readers.places import NotThere, find_file, images_beside
from bench.data.readers.referents import Referent, ReferentDataset, entry, side
from methods.base import UserError
from methods.files import quoted, read_lines


class RecDataset(ReferentDataset):
    """One Example per line that holds words, with a box and no mask; `ref_id` is the line's place in the file, from 0.

    `root` is the file, its folder, or the folder above `rec`; `images` the folder of the images (default: `images`
    beside the file), or any folder above it that the lines' paths name. file: the first part of the files' names.
    limit: the first expressions only.
    """

    serves, task, wants = "boxes", "ground", ("box",)
    layout = "{file}_<split>.jsonl in <root> or <root>/rec"

    def __init__(
        self, root: Path | str, split: str, name: str = "refcoco-rec", images: Path | str | None = None,
        file: str = "refcoco", limit: int | None = None, opens_images: bool = True,
    ) -> None:  # fmt: skip
        path = find_file(root, [f"{file}_{split}.jsonl"], ["rec"])
        if path is None:
            raise NotThere(f"{root}: has no {file}_{split}.jsonl; give the folder that holds it.")
        self._wordless = 0
        referents: list[Referent] = []
        for number, row in read_lines(path):
            try:
                referent = _referent(len(referents) + self._wordless, row)
            except ValueError as error:
                raise UserError(f"{path}, line {number}: {error}; correct or delete the line.") from None
            if referent.expressions[0].strip():
                referents.append(referent)
            else:
                self._wordless += 1
        boxes, sizes = [r.box for r in referents if r.box], [r.size for r in referents if r.size]
        form = out_of_range(boxes, sizes) if referents else None
        if form:
            raise UserError(f"{path}: the boxes look like {form}; write them as {PIXELS}.")
        folder = ImageFiles(images_beside(path, images), opens_images)
        super().__init__(name, split, path, folder, referents[:limit])

    def masks(self, referent: Referent) -> tuple[None, None]:
        return None, None

    def remarks(self) -> list[str]:
        found = [f"{self._wordless} expressions without words are not asked"] if self._wordless else []
        return super().remarks() + found


def _referent(number: int, row: dict[str, Any]) -> Referent:
    """The referent of a line. Raises ValueError saying what is wrong with it."""
    image, sentence = entry(row, "image", str), entry(row, "sent", str)
    height, width = side(row, "height"), side(row, "width")
    box = entry(row, "bbox", list)
    if not is_box(box) or not (box[0] < box[2] and box[1] < box[3]):
        raise ValueError(f"bbox {quoted(box)} is not {PIXELS}")
    left, top, right, bottom = map(float, box)
    return Referent(number, image, image, (height, width), (sentence,), (0,), box=(left, top, right, bottom))


READER = RecDataset
