"""What training, evaluation, the contamination check and reports ask of a dataset, whatever its files look like."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from methods.base import Example

SERVES = ("masks", "boxes", "objects", "texts", "choices", "conversations", "images")


@dataclass(frozen=True)
class SampleInfo:
    """What is known of a sample without its image and its mask.

    positions: the place of each expression among the sample's sentences in the files; predictions name sentences by it
    (`sent_id`). no_target: the dataset says that the expressions refer to nothing. category: one of the dataset's
    classes, where it was opened with them.
    """

    ref_id: int | str
    image_id: int | str
    expressions: tuple[str, ...]
    positions: tuple[int, ...]
    no_target: bool = False
    category: str | None = None

    @classmethod
    def of(cls, example: Example) -> SampleInfo:
        """Of an example that is at hand."""
        positions = tuple(range(len(example.expressions)))
        return cls(example.ref_id, example.image_id, tuple(example.expressions), positions, example.no_target)


class Dataset(ABC, Sequence[Example]):
    """A sequence of samples with unique ref_ids. A reader overrides what it can tell without opening an image or
    decoding a mask; what is given here takes the examples."""

    task: str = "segment"  # the kind of benchmark, one of methods.protocols.TASKS
    wants: tuple[str, ...] = ("mask",)  # what the benchmark asks for: mask and/or box, or a text
    serves: ClassVar[str] = "masks"  # what its samples teach and test: one of SERVES
    knows_objects: ClassVar[bool] = True  # whether `objects` has those of an image that nothing refers to as well
    layout: ClassVar[str] = ""  # where its files lie under <root>; {name} and the like stand for options of the card
    name: str  # in records and file names
    classes: tuple[str, ...] = ()  # that samples are divided into, where it was opened with them
    card: str = ""  # that describes it
    split: str = ""

    @classmethod
    def find(cls, root: Path | str, name: str, split: str) -> Path | None:
        """The file or folder of a split under `root`, None if files of this form are not there."""
        return Path(root) if Path(root).exists() else None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int, /) -> Example:  # type: ignore[override]
        """The sample with its image and its ground truth. Raises UserError, naming it, if either cannot be used."""

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def info(self, index: int) -> SampleInfo:
        """What is known of a sample without its image and its mask."""
        return SampleInfo.of(self[index])

    def by_image(self) -> list[tuple[Any, list[int]]]:
        """(image id, indices of its samples) in the order in which images first appear."""
        groups: dict[Any, list[int]] = {}
        for index in range(len(self)):
            groups.setdefault(self.info(index).image_id, []).append(index)
        return list(groups.items())

    def texts(self) -> Iterator[str]:
        """Every sentence, for a text tokenizer that is trained from scratch."""
        return (sentence for index in range(len(self)) for sentence in self.info(index).expressions)

    def image_paths(self) -> Sequence[Path]:
        """Where the split's images are to lie, as its files say; none is looked for."""
        return [image for image in (self[index].image for index in range(len(self))) if isinstance(image, Path)]

    def missing_images(self) -> list[Path]:
        """Those of the split's images that are not where the dataset looks for them."""
        return [path for path in dict.fromkeys(self.image_paths()) if not os.path.exists(path)]

    def image_file(self, index: int) -> Path | None:
        """The file of a sample's image as it lies on the disk, for those who read it in a way of their own; None if the
        image is no file."""
        image = self[index].image
        return image if isinstance(image, Path) else None

    def with_targets(self) -> Dataset:
        """The same without samples that refer to nothing, which have no box and no points."""
        return self

    def objects(self, image_id: int | str) -> list[np.ndarray]:
        """The masks bool [H, W] of all annotated objects of an image, referred to or not."""
        masks = [self[index].mask for index in dict(self.by_image()).get(image_id, ())]
        return [mask for mask in masks if mask is not None]

    def segmentations(self, index: int) -> Sequence[Any]:
        """The COCO segmentations whose union is a sample's mask; none where the ground truth has another form."""
        return ()

    def digest(self) -> str:
        """A short digest of what the ground truth depends on."""
        total = hashlib.sha256()
        for index in range(len(self)):
            mask = self[index].mask
            total.update(repr(self.info(index)).encode() + (b"" if mask is None else mask.tobytes()))
        return total.hexdigest()[:16]

    def check(self, indices: Sequence[int] | None = None) -> None:
        """Raise UserError, naming the sample, if something that a score of these samples (all) needs cannot be used."""

    def file_size(self, image_id: int | str) -> tuple[int, int] | None:
        """(H, W) of an image's file, where it was opened and is not the size of the ground truth; else None."""
        return None

    def remarks(self) -> list[str]:
        """What was left out or brought into form, a sentence each, for the footnote of every score."""
        return []


class ExampleDataset(Dataset):
    """A dataset of examples that are at hand, as a script or a test makes them."""

    wants = ("mask", "box")

    def __init__(self, examples: Sequence[Example], name: str = "examples", split: str = "val"):
        self.examples, self.name, self.split = examples, name, split

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int, /) -> Example:  # type: ignore[override]
        return self.examples[index]
