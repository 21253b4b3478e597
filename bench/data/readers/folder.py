"""A plain folder of images: nothing is known of them but pixels, which is all that an image tokenizer needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.data.dataset import Dataset
from bench.data.readers.places import NotThere
from methods.base import Example, UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class FolderDataset(Dataset):
    """One Example per image in `root` and the folders below it, in the order of their paths; hidden files and links
    to folders are passed over. An example has no mask and an empty expression, and its ids are the image's path.

    Options of other readers (masks, classes, where the images are) are ignored.
    """

    serves = "images"
    layout = "any folders of images below <root>"

    def __init__(self, root: Path | str, split: str, name: str = "images", images: Any = None) -> None:
        self.root, self.split, self.name = Path(root), split, name
        if not self.root.is_dir():
            raise NotThere(f"{root}: no such folder; give data.root, a folder of images.")
        self.paths = sorted(self._walk())
        if not self.paths:
            raise UserError(f"{root}: no image in it or below; put files there that end in {', '.join(SUFFIXES)}.")

    def _walk(self) -> Iterator[str]:
        for folder, below, files in os.walk(self.root):
            below[:] = [name for name in below if not name.startswith(".")]
            place = Path(folder).relative_to(self.root)
            for name in files:
                if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                    yield (place / name).as_posix()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        path = self.paths[index]
        return Example(self.root / path, ("",), dataset=self.name, split=self.split, image_id=path, ref_id=path)

    def by_image(self) -> list[tuple[str, list[int]]]:
        """(path, index) of every image."""
        return [(path, [index]) for index, path in enumerate(self.paths)]

    def image_paths(self) -> list[Path]:
        """Where the images lie."""
        return [self.root / path for path in self.paths]

    def texts(self) -> Iterator[str]:
        """None."""
        return iter(())


READER = FolderDataset
