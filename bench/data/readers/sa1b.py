"""SA-1B (Segment Anything): objects without words, for tasks that point at them, and for mask tokenizers.

`sa_1.json` beside `sa_1.jpg`, in one folder or in folders below: {"image": {"file_name", "height", "width"},
"annotations": [{"segmentation": run lengths, "bbox"}, ...]}. There are 11 million such files, so none is read before
its sample is taken.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.data import rle
from bench.data.boxes import coco_union
from bench.data.dataset import Dataset, SampleInfo
from bench.data.readers.image_files import ImageFiles
from bench.data.readers.places import NotThere
from bench.data.readers.referents import UNUSABLE, entry, side, size_facts
from methods.base import Example, UserError
from methods.files import read_object


class Sa1bDataset(Dataset):
    """`per_image` Examples for each JSON file, with an empty expression: its objects from the first on, and again from
    the first where it has fewer. `ref_id` is <path of the file>/<number>.

    images: the folder of the images, if they are not beside their files. limit: the first files only.
    """

    serves = "objects"
    layout = "*.json beside *.jpg in <root>, or in folders below"

    def __init__(
        self, root: Path | str, split: str, name: str = "sa-1b", images: Path | str | None = None, per_image: int = 1,
        limit: int | None = None, opens_images: bool = True,
    ) -> None:  # fmt: skip
        self.root, self.name, self.split, self.per_image = Path(root), name, split, per_image
        self.files = sorted(self._walk())[:limit]
        if not self.files:
            raise NotThere(f"{root}: has no JSON file in it or below; give the folder that holds them.")
        self._images, self._opens = images, opens_images

    def _walk(self) -> Iterator[str]:
        for folder, below, files in os.walk(self.root):
            below[:] = [name for name in below if not name.startswith(".")]
            yield from (os.path.join(folder, name) for name in files if name.endswith(".json"))

    def __len__(self) -> int:
        return len(self.files) * self.per_image

    def __getitem__(self, index: int, /) -> Example:  # type: ignore[override]
        file, number = divmod(range(len(self))[index], self.per_image)
        path, key = Path(self.files[file]), self._key(file)
        content = read_object(path, "get the file again")
        try:
            image, objects = entry(content, "image", dict), entry(content, "annotations", list)
            name, shape = entry(image, "file_name", str), (side(image, "height"), side(image, "width"))
            if not objects:
                raise ValueError("no object")
            chosen = objects[number % len(objects)]
            mask = rle.rasterize(entry(chosen, "segmentation", dict), *shape)
        except UNUSABLE as error:
            raise UserError(f"{path}: has {error}; correct it, or remove the pair of files.") from None
        files = ImageFiles(Path(self._images) if self._images else path.parent, self._opens)
        return Example(
            files.open(name, shape, f"object {number} of {path}"), ("",), mask, coco_union([chosen.get("bbox")]),
            dataset=self.name, split=self.split, image_id=key, ref_id=f"{key}/{number}", facts=size_facts(mask),
        )  # fmt: skip

    def info(self, index: int) -> SampleInfo:
        file, number = divmod(index, self.per_image)
        return SampleInfo(f"{self._key(file)}/{number}", self._key(file), ("",), (0,))

    def image_paths(self) -> list[Path]:
        """Where the images are to lie by the names of their files; none of these is read."""
        folder = Path(self._images) if self._images else None
        return [(folder or path.parent) / f"{path.stem}.jpg" for path in map(Path, self.files)]

    def texts(self) -> Iterator[str]:
        """None."""
        return iter(())

    def check(self, indices: Sequence[int] | None = None) -> None:
        for index in range(len(self)) if indices is None else indices:
            self[index]

    def digest(self) -> str:
        """Of the files' names and sizes: contents of millions are not read."""
        total: list[Any] = [(self._key(number), os.path.getsize(path)) for number, path in enumerate(self.files)]
        return hashlib.sha256(repr(total).encode()).hexdigest()[:16]

    def _key(self, file: int) -> str:
        return Path(self.files[file]).relative_to(self.root).with_suffix("").as_posix()


READER = Sa1bDataset
