"""What readers of lists share: a file is brought into the form of `Referent`s, and `ReferentDataset` does the rest."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import rle
from bench.data.boxes import FAR
from bench.data.dataset import Dataset, SampleInfo
from bench.data.readers.image_files import ImageFiles, Size
from methods.base import Box, Example, UserError
from methods.files import KINDS, quoted, read_bytes

SMALL = 0.04  # share of the image below which a referent counts as small
UNUSABLE = (KeyError, ValueError, TypeError, OverflowError)  # what a segmentation that cannot be decoded raises


@dataclass(frozen=True)
class Referent:
    """A sample as its file describes it, before the image is opened or a mask decoded.

    image: its name in the file. size: (H, W) of the annotations' frame, None if that is the image file's. positions: of
    the expressions among the sample's sentences in the file. parts: COCO segmentations whose union is the mask; an
    empty one covers nothing. no_target: the file says that the expressions refer to nothing.
    """

    ref_id: int | str
    image_id: int | str
    image: str
    size: Size | None
    expressions: tuple[str, ...]
    positions: tuple[int, ...]
    parts: tuple[Any, ...] = ()
    box: Box | None = None
    no_target: bool = False
    category: str | None = None
    answer: str | None = None
    task: str = "segment"
    facts: Mapping[str, Any] = field(default_factory=dict)


class ReferentDataset(Dataset):
    """One Example per referent, in the order of the file.

    path: the file, in messages and the digest. A reader whose ground truth is no union of COCO segmentations overrides
    `masks`.
    """

    knows_objects = False
    path: Path

    def __init__(self, name: str, split: str, path: Path, images: ImageFiles, referents: Sequence[Referent]) -> None:
        self.name, self.split, self.path, self.images = name, split, path, images
        self.referents = tuple(referents)
        if not self.referents:
            raise UserError(f"{path}: nothing of split {split!r} can be asked; give the file of another split.")

    def __len__(self) -> int:
        return len(self.referents)

    def __getitem__(self, index: int, /) -> Example:  # type: ignore[override]
        referent = self.referents[index]
        image = self.files_of(referent).open(referent.image, referent.size, self.where(referent))
        mask, ignore = self.masks(referent)
        return Example(
            image=image, expressions=referent.expressions, mask=mask, box=referent.box, ignore=ignore,
            dataset=self.name, split=self.split, image_id=referent.image_id, ref_id=referent.ref_id,
            task=referent.task, answer=referent.answer, no_target=referent.no_target,
            facts={**(size_facts(mask) if mask is not None else {}), **referent.facts},
        )  # fmt: skip

    def masks(self, referent: Referent) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The ground truth and the pixels that no metric counts, bool [H, W] each, or None."""
        shape = self.frame(referent)
        try:
            parts = [rle.rasterize(part, *shape) for part in referent.parts if part != []]
        except UNUSABLE as error:
            raise self.unusable(referent, error) from None
        if not parts:
            return np.zeros(shape, bool), None
        return parts[0] if len(parts) == 1 else np.logical_or.reduce(parts), None

    def segmentations(self, index: int) -> Sequence[Any]:
        drawn_here = type(self).masks is ReferentDataset.masks  # else parts are of a form of the reader's own
        return self.referents[index].parts if drawn_here else ()

    def info(self, index: int) -> SampleInfo:
        referent = self.referents[index]
        return SampleInfo(
            referent.ref_id, referent.image_id, referent.expressions, referent.positions, referent.no_target,
            referent.category,
        )  # fmt: skip

    def image_file(self, index: int) -> Path:
        referent = self.referents[index]
        return self.images.path(referent.image, self.where(referent))

    def with_targets(self) -> Dataset:
        return self._kept([referent for referent in self.referents if not referent.no_target])

    def _kept(self, kept: Sequence[Referent]) -> Dataset:
        """The same with these referents alone."""
        if len(kept) == len(self):
            return self
        view = copy.copy(self)
        view.referents = tuple(kept)
        return view

    def files_of(self, referent: Referent) -> ImageFiles:
        """Where a referent's image is."""
        return self.images

    def image_paths(self) -> list[Path]:
        return list(dict.fromkeys(self.files_of(referent).folder / referent.image for referent in self.referents))

    def missing_images(self) -> list[Path]:
        paths = (self.files_of(referent).path(referent.image, self.where(referent)) for referent in self.referents)
        return [path for path in dict.fromkeys(paths) if not os.path.exists(path)]

    def check(self, indices: Sequence[int] | None = None) -> None:
        for referent in self._chosen(indices):
            self.images.look(referent.image, referent.size, self.where(referent))
            try:
                for part in referent.parts:
                    if part != []:
                        rle.extent(part, *self.frame(referent))
            except UNUSABLE as error:
                raise self.unusable(referent, error) from None

    def digest(self) -> str:
        return digest_of([self.path])

    def file_size(self, image_id: int | str) -> Size | None:
        return self.images.other_size(self._image_names.get(image_id, ""))

    @cached_property
    def _image_names(self) -> dict[int | str, str]:
        return {referent.image_id: referent.image for referent in self.referents}

    def remarks(self) -> list[str]:
        return self.images.remarks(len({referent.image for referent in self.referents}))

    def frame(self, referent: Referent) -> Size:
        """(H, W) of a referent's ground truth."""
        return self.files_of(referent).frame(referent.image, referent.size, self.where(referent))

    def where(self, referent: Referent) -> str:
        """A referent in messages."""
        return f"sample {referent.ref_id} of {self.path}"

    def unusable(self, referent: Referent, error: Exception) -> UserError:
        """The sentence about a segmentation that cannot be decoded; never raised here."""
        return UserError(
            f"{self.path}: sample {referent.ref_id} has an unusable segmentation ({error}); correct it or leave the "
            "sample out."
        )

    def _chosen(self, indices: Sequence[int] | None) -> Iterable[Referent]:
        return self.referents if indices is None else (self.referents[index] for index in indices)


def size_facts(mask: np.ndarray) -> dict[str, Any]:
    """What breakdowns by size group by."""
    share = int(np.count_nonzero(mask)) / mask.size
    return {"area_fraction": share, "small": 0 < share < SMALL}


def entry(record: Any, key: str, kind: type) -> Any:
    """The value of a key in an object of a file. Raises ValueError saying what is wrong with it."""
    value = record.get(key) if isinstance(record, Mapping) else None
    if value is None or not isinstance(value, kind):
        raise ValueError(f"no usable {key} ({quoted(value)} is not {KINDS.get(kind, 'usable')})")
    return value


def side(record: Any, key: str) -> int:
    """A height or width in an object of a file. Raises ValueError if it is none."""
    value = record.get(key)
    if not is_side(value):
        raise ValueError(f"no usable {key} ({quoted(value)} is not a number of pixels)")
    return value


def is_side(value: Any) -> bool:
    """Whether a value can be the height or width of an image."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < FAR


def worded(sentences: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The sentences that hold words, and their places: one without asks nothing."""
    kept = [(text, place) for place, text in enumerate(sentences) if text.strip()]
    return tuple(text for text, _ in kept), tuple(place for _, place in kept)


def digest_of(paths: Iterable[Path]) -> str:
    """A short digest of files' contents."""
    total = hashlib.sha256()
    for path in paths:
        total.update(read_bytes(path, "give the folder of the dataset"))
    return total.hexdigest()[:16]
