"""ReasonSeg: implied queries that need reasoning, an image and a labelme-like JSON file for each.

`<split>/x.jpg` and `<split>/x.json`: {"text": [query, ...], "is_sentence": bool, "shapes": [{"label": "target" |
"ignore" | ..., "points": [[x, y], ...]}]}. Shapes are rasterized largest first, so that an ignored region may lie
within a target and a target within an ignored region; edges belong to the shape, as in LISA's reader of these files
(OpenCV's filled polygon and its outline). Other labels are ignored. Points lie on the image as it is shown, with its
EXIF orientation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bench.data.boxes import FAR, is_number
from bench.data.readers.image_files import ImageFiles
from bench.data.readers.places import NotThere
from bench.data.readers.referents import Referent, ReferentDataset, digest_of, entry, worded
from methods.base import UserError
from methods.files import read_json

TARGET, IGNORE = 1, 255
LABELS = {"target": TARGET, "ignore": IGNORE}
SUFFIXES = (".jpg", ".jpeg", ".png")


class ReasonSegDataset(ReferentDataset):
    """One Example per JSON file, in the order of their names, with all its queries (evaluations that ask one take the
    first) and `ignore`, the pixels that no metric counts. `ref_id` is the file's name without ending.

    `facts["kind"]` has "sentence" or "phrase" for each query, as `is_sentence` says. A file without a target shape has
    an empty mask and is counted in `remarks`. `root` is the folder of the splits, or the one above `ReasonSeg`;
    `images` the folder of a split's images, if they are not beside the files. limit: the first files only.
    """

    task = "reason"
    layout = "<split>/*.json with *.jpg in <root> or <root>/ReasonSeg"

    def __init__(
        self, root: Path | str, split: str, name: str = "reasonseg", images: Path | str | None = None,
        limit: int | None = None, opens_images: bool = True,
    ) -> None:  # fmt: skip
        folders = [Path(root) / split, Path(root) / "ReasonSeg" / split]
        folder = next((folder for folder in folders if any(folder.glob("*.json"))), None)
        if folder is None:
            raise NotThere(f"{root}: has no folder {split} with JSON files; give the folder that holds it.")
        place = Path(images) if images else folder
        self._files = sorted(folder.glob("*.json"))[:limit]
        referents = [_referent(path, place) for path in self._files]
        super().__init__(name, split, folder, ImageFiles(place, opens_images), [r for r in referents if r.expressions])
        self._wordless = len(referents) - len(self.referents)

    def masks(self, referent: Referent) -> tuple[np.ndarray, np.ndarray | None]:
        values = rasterize(referent.parts, self.frame(referent))
        ignore = values == IGNORE
        return values == TARGET, ignore if ignore.any() else None

    def check(self, indices: Sequence[int] | None = None) -> None:
        for referent in self._chosen(indices):  # whose shapes were checked when they were read
            self.images.look(referent.image, referent.size, self.where(referent))

    def digest(self) -> str:
        return digest_of(self._files)

    def remarks(self) -> list[str]:
        found = super().remarks()
        if self._wordless:
            found.append(f"{self._wordless} files without a query are not asked")
        bare = [referent.ref_id for referent in self.referents if all(value != TARGET for value, _ in referent.parts)]
        if bare:
            found.append(f"{len(bare)} files have no target shape: an empty mask ({bare[0]})")
        return found


def _referent(path: Path, images: Path) -> Referent:
    """The sample of a JSON file."""
    content = read_json(path, "get the file again")
    try:
        texts = entry(content, "text", list)
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a text that is none")
        shapes = [shape for shape in entry(content, "shapes", list) if entry(shape, "label", str) in LABELS]
        parts = tuple((LABELS[shape["label"]], _points(entry(shape, "points", list))) for shape in shapes)
    except ValueError as error:
        raise UserError(f"{path}: has {error}; correct it or remove the pair of files.") from None
    found = [path.stem + suffix for suffix in SUFFIXES if (images / (path.stem + suffix)).exists()]
    expressions, positions = worded(texts)
    facts = {"kind": ["sentence" if content.get("is_sentence") else "phrase"] * len(expressions)}
    image = found[0] if found else path.stem + SUFFIXES[0]
    return Referent(path.stem, path.stem, image, None, expressions, positions, parts, facts=facts)


def _points(points: list[Any]) -> np.ndarray:
    """The corners of a shape, int32 [N, 2], cut to whole pixels as LISA's reader does. Raises ValueError."""
    for point in points:
        if not isinstance(point, list) or len(point) != 2 or not all(is_number(x) and abs(x) < FAR for x in point):
            raise ValueError("a point that is not two numbers in pixels")
    if not points:
        raise ValueError("a shape without points")
    return np.array(points, float).astype(np.int32)


def rasterize(shapes: Sequence[tuple[int, np.ndarray]], size: tuple[int, int]) -> np.ndarray:
    """Shapes (value, corners) -> uint8 [H, W] of the values, 0 elsewhere; the smaller of two lies on top."""
    filled = [(value, _filled(corners, size)) for value, corners in shapes]
    values = np.zeros(size, np.uint8)
    for value, mask in sorted(filled, key=lambda pair: -pair[1].sum()):
        values[mask] = value
    return values


def _filled(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool [H, W]: the polygon with its outline."""
    mask = np.zeros(size, np.uint8)
    cv2.polylines(mask, [corners], True, 1, 1)
    cv2.fillPoly(mask, [corners], 1)
    return mask.astype(bool)


READER = ReasonSegDataset
