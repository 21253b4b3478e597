"""Semantic segmentation as class queries: an image, a PNG with a class index at each pixel, and a request per class.

ADE20K-150, PASCAL Context-59, VOC-20 and COCO-Stuff have this form; their cards say where the files lie and what the
classes are called. 255 (void) is ignored, and what lies below the first class: index 0, background or "other objects".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from bench.data.readers.image_files import ImageFiles, Size, checked_path, read_pixels
from bench.data.readers.places import NotThere
from bench.data.readers.referents import Referent, ReferentDataset, digest_of
from methods.base import UserError
from methods.files import read_text

VOID = 255
ASK = ("present", "all")


class SemanticDataset(ReferentDataset):
    """One Example per image and class: the class's name is the expression and the `category` by which `miou_class`
    takes the mean, `mask` its pixels and `ignore` those that belong to no class. `ref_id` is <image id>/<class>.

    ask: "present", the classes that an image shows, so that no answer can be wrong elsewhere; or "all", where a class
    that is absent is a sample without a target, whose answer adds to the class's union: then `miou_class` is the mIoU
    of semantic segmentation, for queries that are answered independently and may overlap.
    classes: their names in the order of their indices, which start at `first`; null where an index has no class.
    image_files, label_files: where the files of a split lie, with {split} and {id}; list_file: the file that lists a
    split's ids, every label file if there is none; folders: split -> {split}, where it is called otherwise; below:
    names of the folder itself, if `root` is the one above it. images: the folder that image_files starts from, if it is
    another. limit: the first samples only.
    """

    task = "semantic"
    layout = "{image_files} with {label_files} in <root> or <root>/({below})"

    def __init__(
        self, root: Path | str, split: str, name: str = "semantic", images: Path | str | None = None,
        classes: Sequence[str | None] = (), first: int = 1, image_files: str = "", label_files: str = "",
        list_file: str = "", folders: Mapping[str, str] | None = None, below: Sequence[str] = (),
        ask: str = "present", limit: int | None = None, opens_images: bool = True,
    ) -> None:  # fmt: skip
        if ask not in ASK:
            raise UserError(f"There is no ask={ask!r}; choose from {', '.join(ASK)}.")
        if not label_files or not image_files:
            raise UserError(f"Dataset {name!r} says no label_files or image_files; correct its card.")
        self._folder, self._label_files = Path(root), label_files.replace("{split}", (folders or {}).get(split, split))
        ids = self._ids(root, below, list_file.replace("{split}", split))
        if not ids:
            wanted = list_file.replace("{split}", split) or self._label_files
            raise NotThere(f"{root}: has no {wanted.replace('{id}', '*')}; give the folder that holds it.")
        self._names, self._first = tuple(classes), first
        self.classes = tuple(name for name in self._names if name is not None)
        self._last: tuple[str, np.ndarray] = ("", np.zeros((0, 0), np.uint8))
        image = image_files.replace("{split}", (folders or {}).get(split, split))
        self._labels = [self._label(number) for number in ids]
        referents = list(self._read(ids, image, ask))[:limit]
        place = ImageFiles(Path(images) if images else self._folder, opens_images)
        super().__init__(name, split, self._folder, place, referents)

    def _ids(self, root: Path | str, below: Sequence[str], list_file: str) -> list[str]:
        """The ids of a split in the first folder that has its files, which becomes `_folder`."""
        for folder in (Path(root), *(Path(root) / name for name in below)):
            self._folder = folder
            if list_file and (folder / list_file).is_file():
                return read_text(folder / list_file, "get the file again").split()
            if not list_file:
                found = sorted(path.stem for path in folder.glob(self._label_files.replace("{id}", "*")))
                if found:
                    return found
        return []

    def _read(self, ids: Sequence[str], image_files: str, ask: str) -> Iterator[Referent]:
        with ThreadPoolExecutor() as pool:  # decoding PNG files is most of the work, and needs no lock
            shown = list(pool.map(self._shown, ids))
        for identity, (size, present) in zip(ids, shown, strict=True):
            for number, name in enumerate(self._names, self._first):
                if name is not None and (ask == "all" or number in present):
                    yield Referent(
                        f"{identity}/{name}", identity, image_files.replace("{id}", identity), size, (name,),
                        (0,), no_target=number not in present, category=name,
                    )  # fmt: skip

    def _shown(self, identity: str) -> tuple[Size, frozenset[int]]:
        """The size of a label file, and the indices of the classes in it."""
        values = self._read_values(identity)
        present = {int(number) for number in np.flatnonzero(np.bincount(values.ravel(), minlength=256)[:VOID])}
        present -= set(range(self._first))
        for number in present:
            if number - self._first >= len(self._names) or self._names[number - self._first] is None:
                raise UserError(
                    f"{self._label(identity)}: has the class index {number}, which is none of the {len(self.classes)} "
                    "classes; give the label files of the release."
                )
        return values.shape, frozenset(present)

    def masks(self, referent: Referent) -> tuple[np.ndarray, np.ndarray]:
        identity = str(referent.image_id)
        if self._last[0] != identity:
            self._last = identity, self._read_values(identity)
        values = self._last[1]
        number = self._names.index(referent.category) + self._first
        return values == number, (values < self._first) | (values == VOID)

    def digest(self) -> str:
        return digest_of(self._labels)

    def _label(self, identity: str) -> Path:
        return checked_path(self._folder, self._label_files.replace("{id}", identity), f"the list of {self._folder}")

    def _read_values(self, identity: str) -> np.ndarray:
        """uint8 [H, W]: the class index of each pixel."""
        return read_pixels(self._label(identity), f"image {identity}", _indices)


def _indices(image: Image.Image) -> np.ndarray:
    if image.mode not in ("L", "P"):
        raise ValueError(f"{image.mode} pixels, not one class index each")
    return np.array(image)


READER = SemanticDataset
