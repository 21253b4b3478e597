"""Semantic segmentation as class queries: an image, a PNG with a class index at each pixel, and a request per class.

ADE20K-150, PASCAL Context-59 and VOC-20 have this form; their cards say where the files lie and what the classes are
called. Index 0 (background, or "other objects") and 255 (void) are ignored in all three, 1 is the first class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.data.readers.image_files import ImageFiles, path_under
from bench.data.readers.places import NotThere
from bench.data.readers.referents import Referent, ReferentDataset, digest_of
from methods.base import UNREADABLE, UserError, open_header
from methods.files import printable, read_text

VOID = 255
ASK = ("present", "all")


class SemanticDataset(ReferentDataset):
    """One Example per image and class: the class's name is the expression and the `category` by which `miou_class`
    takes the mean, `mask` its pixels and `ignore` those that belong to no class. `ref_id` is <image id>/<class>.

    ask: "present", the classes that an image shows, so that no answer can be wrong elsewhere; or "all", where a class
    that is absent is a sample without a target, whose answer adds to the class's union: then `miou_class` is the mIoU
    of semantic segmentation, for queries that are answered independently and may overlap.
    image_files, label_files: where the files of a split lie, with {split} and {id}; list_file: the file that lists a
    split's ids, every label file if there is none; folders: split -> {split}, where it is called otherwise; below:
    names of the folder itself, if `root` is the one above it. images: the folder that image_files starts from, if it is
    another. limit: the first samples only.
    """

    layout = "{image_files} with {label_files} in <root> or <root>/({below})"

    def __init__(
        self, root: Path | str, split: str, name: str = "semantic", images: Path | str | None = None,
        classes: Sequence[str] = (), image_files: str = "", label_files: str = "", list_file: str = "",
        folders: Mapping[str, str] | None = None, below: Sequence[str] = (), ask: str = "present",
        limit: int | None = None, opens_images: bool = True,
    ) -> None:  # fmt: skip
        if ask not in ASK:
            raise UserError(f"There is no ask={ask!r}; choose from {', '.join(ASK)}.")
        self._folder, self._label_files = Path(root), label_files.replace("{split}", (folders or {}).get(split, split))
        ids = self._ids(root, below, list_file.replace("{split}", split))
        if not ids:
            wanted = list_file.replace("{split}", split) or self._label_files
            raise NotThere(f"{root}: has no {wanted.replace('{id}', '*')}; give the folder that holds it.")
        self.classes = tuple(classes)
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
        for identity in ids:
            values = self._values(identity)
            present = set(np.flatnonzero(np.bincount(values.ravel(), minlength=256)[:VOID]).tolist()) - {0}
            if present and max(present) > len(self.classes):
                raise UserError(
                    f"{self._label(identity)}: has the class index {max(present)}, but there are {len(self.classes)} "
                    "classes; give the label files of the release."
                )
            for number, name in enumerate(self.classes, 1):
                if ask == "all" or number in present:
                    yield Referent(
                        f"{identity}/{name}", identity, image_files.replace("{id}", identity), values.shape, (name,),
                        (0,), no_target=number not in present, category=name,
                    )  # fmt: skip

    def masks(self, referent: Referent) -> tuple[np.ndarray, np.ndarray]:
        values = self._values(str(referent.image_id))
        number = self.classes.index(referent.category or "") + 1
        return values == number, (values == 0) | (values == VOID)

    def digest(self) -> str:
        return digest_of(self._labels)

    def _label(self, identity: str) -> Path:
        path = path_under(self._folder, self._label_files.replace("{id}", identity))
        if path is None:
            raise UserError(
                f"{self._folder}: the id {printable(identity, 80)} leads out of it; correct the list of ids."
            )
        return path

    def _values(self, identity: str) -> np.ndarray:
        """uint8 [H, W]: the class index of each pixel."""
        if self._last[0] != identity:
            path = self._label(identity)
            try:
                with open_header(path) as handle:
                    if handle.mode not in ("L", "P"):
                        raise ValueError(f"{handle.mode} pixels, not one class index each")
                    self._last = identity, np.array(handle)
            except FileNotFoundError:
                raise UserError(f"{path}: missing label file of {identity}; get the dataset again.") from None
            except UNREADABLE as error:
                raise UserError(f"{path}: unusable label file ({printable(error, 200)}); get it again.") from None
        return self._last[1]


READER = SemanticDataset
