"""Training conversations as HiMTok, ARGenSeg, InternVL and LLaVA write them: a JSON object per line, or one list.

A row is {"image": path, "conversations": [{"from": "human" | "gpt", "value": text}, ...]}; `<image>` stands where the
image is. In HiMTok's rows `mask` is the path of an 8-bit image, whose place in the text is a span of mask tokens,
<|mt_start|><|mt_0|>...<|mt_end|>; in ARGenSeg's `mask` is a path or a list, and its place is `<mask>`. Both are read as
`<mask>`, so that either method learns from either file. A meta file names several such files: {name:
{"root", "annotation", "repeat_time", "length", "data_augment"}}, where `repeat_time` below 1 keeps the first rows and
above 1 repeats all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.data.dataset import Dataset
from bench.data.readers.image_files import ImageFiles, Size, checked_path, read_pixels
from bench.data.readers.places import NotThere, file_of_rows
from bench.data.readers.referents import Referent, ReferentDataset, digest_of, entry
from methods.base import Example, UserError
from methods.files import printable, quoted, read_json, read_lines

IMAGE, MASK = "<image>", "<mask>"
SPAN = re.compile(r"<\|mt_start\|>(?:<\|mt_\d+\|>)*<\|mt_end\|>")
REF = re.compile(r"<ref>(.*?)</ref>", re.DOTALL)
INSTRUCTIONS = re.compile(r"Given the following instructions: (.*?); please perform", re.DOTALL)
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
LISTED = re.compile(rf"{MASK}(?:(?:\s|[,;:.\d()&-]|\band\b)*{MASK})+")
MOST_REPEATS = 1000


@dataclass(frozen=True)
class Source:
    """One file of rows. root: the folder of its images and masks."""

    name: str
    root: str = ""
    annotation: str = ""
    repeat_time: float = 1
    length: int | None = None
    data_augment: bool = False


class ConversationDataset(ReferentDataset):
    """One Example per row that has an image, with its `turns` for the task "conversation".

    A row with a mask has it as `mask`, at the size of its own file, and as `expressions` what it asks for: the words in
    <ref>...</ref>, or behind ARGenSeg's "Given the following instructions:", else all that the user says first; so it
    serves "segment" as well. Without a mask `expressions` holds the user's first text and `answer` the answer to it.
    `ref_id` is <name>/<line>, with #2 and so on for repetitions. A row that lists several masks in one answer (LISA's
    instance lists) is read with their union, since an answer has one mask here; rows with several images, or with masks
    in several answers, are refused by name: give a row for each. Rows of a mask without an image are images to be
    generated, which the reader `pairs` takes.

    `root` is a meta file, a file of rows, or a folder that holds one of either; `images` the folder that the rows'
    paths start from, else the meta file's root, else the folder of the rows' file.
    """

    serves = "conversations"
    layout = "meta.json or one *.jsonl in <root>, or the file itself"

    def __init__(
        self, root: Path | str, split: str, name: str = "conversations", images: Path | str | None = None,
        limit: int | None = None, opens_images: bool = True,
    ) -> None:  # fmt: skip
        path = self.find(root, name, split)
        if path is None:
            raise NotThere(f"{root}: has no meta.json and no single *.jsonl; give the file as root.")
        self._textual, self._united, self._files = 0, 0, [path]
        self._notes: list[str] = []
        self._folders: dict[str, ImageFiles] = {}
        self._turns: dict[Any, tuple[tuple[str, str], ...]] = {}
        referents: list[Referent] = []
        for source in _sources(path):
            folder = Path(images) if images else Path(source.root)
            self._folders[source.name] = ImageFiles(folder, opens_images)
            referents += self._rows(source)
        super().__init__(name, split, path, next(iter(self._folders.values())), referents[:limit])

    @classmethod
    def find(cls, root: Path | str, name: str, split: str) -> Path | None:
        return file_of_rows(Path(root), "meta.json")

    def _rows(self, source: Source) -> Iterator[Referent]:
        """The referents of a file, repeated as the meta file says."""
        path = Path(source.annotation)
        self._files.append(path)
        rows = list(_read(path))
        if source.length is not None and source.length != len(rows):
            self._notes.append(f"{path.name} has {len(rows):,} rows, but its meta file says {source.length:,}")
        if source.data_augment:
            self._notes.append(f"the JPEG augmentation that the meta file asks for {source.name} is not applied")
        repeats, share = (int(source.repeat_time), 1.0) if source.repeat_time >= 1 else (1, source.repeat_time)
        for repeat in range(repeats):
            for where, number, row in rows[: int(len(rows) * share)]:
                try:
                    referent = self._row(source, number, row)
                except ValueError as error:
                    raise UserError(f"{where}: {error}; correct it or leave the row out.") from None
                if referent is None:
                    self._textual += repeat == 0
                    continue
                yield referent if not repeat else self._again(referent, repeat)

    def _again(self, referent: Referent, repeat: int) -> Referent:
        mark = f"#{repeat + 1}"  # of the image as well: samplers take every image once an epoch
        copied = replace(referent, ref_id=f"{referent.ref_id}{mark}", image_id=f"{referent.image_id}{mark}")
        self._turns[copied.ref_id] = self._turns[referent.ref_id]
        return copied

    def _row(self, source: Source, number: int, row: Mapping[str, Any]) -> Referent | None:
        """The referent of a row, None if it has no image. Raises ValueError saying what is wrong with it."""
        image, masks = one_path(row, "image"), paths_of(row, "mask")
        if image is None:
            return None
        turns = tuple(_turns(entry(row, "conversations", list)))
        count = sum(text.count(MASK) for _, text in turns)
        if count != len(masks):
            listed = {0: "no mask", 1: "one mask"}.get(len(masks), f"{len(masks)} masks")
            raise ValueError(f"{count} places for a mask in its text, but {listed}")
        if count > 1:
            turns = _united(turns)
            self._united += 1
        key, asked = f"{source.name}/{number}", asked_for(turns[0][1], count > 0)
        self._turns[key] = turns
        return Referent(
            key, f"{source.name}/{image}", image, None, (asked,), (0,),
            parts=tuple(masks), answer=None if masks else turns[1][1],
            task="conversation", facts={"source": source.name},
        )  # fmt: skip

    def __getitem__(self, index: int, /) -> Example:  # type: ignore[override]
        referent = self.referents[index]
        return replace(super().__getitem__(index), turns=self._turns[referent.ref_id])

    def files_of(self, referent: Referent) -> ImageFiles:
        return self._folders[referent.facts["source"]]

    def masks(self, referent: Referent) -> tuple[np.ndarray | None, None]:
        if not referent.parts:
            return None, None
        where, size = self.where(referent), self.frame(referent)
        paths = [checked_path(self.files_of(referent).folder, part, where) for part in referent.parts]
        return np.logical_or.reduce([read_pixels(p, where, lambda image: _binary(image, size)) for p in paths]), None

    def check(self, indices: Any = None) -> None:
        for referent in self._chosen(indices):
            self.files_of(referent).look(referent.image, None, self.where(referent))
            self.masks(referent)

    def with_targets(self) -> Dataset:
        """Those with a mask."""
        return self._kept([referent for referent in self.referents if referent.parts])

    def digest(self) -> str:
        return digest_of(self._files)

    def remarks(self) -> list[str]:
        left = [f"{self._textual} rows without an image are left out"] if self._textual else []
        united = [f"the masks of {self._united} rows with several are united"] if self._united else []
        return [*self._notes, *left, *united]


def asked_for(text: str, mask: bool) -> str:
    """What a user's text asks for, without the image's place; of a mask, what it is to be of."""
    plain = text.replace(f"{IMAGE}\n", "").replace(f"\n{IMAGE}", "").replace(IMAGE, "")
    phrases = (REF.findall(plain) or INSTRUCTIONS.findall(plain)) if mask else []
    return phrases[0] if phrases else plain


def _sources(path: Path) -> list[Source]:
    """The files that a meta file names, or the file itself."""
    content = read_json(path, "give a meta file or a file of rows") if path.suffix == ".json" else []
    if not isinstance(content, dict):
        return [Source(path.stem, str(path.parent), str(path))]
    found = []
    for name, row in content.items():
        try:
            source = Source(name, entry(row, "root", str), entry(row, "annotation", str), row.get("repeat_time", 1),
                            row.get("length"), bool(row.get("data_augment")))  # fmt: skip
            if not isinstance(source.repeat_time, int | float) or not 0 < source.repeat_time <= MOST_REPEATS:
                raise ValueError(f"the repeat_time {quoted(source.repeat_time)}")
            if source.repeat_time > 1 and source.repeat_time != int(source.repeat_time):
                raise ValueError(f"the repeat_time {source.repeat_time}, which is no whole number")
            if not (source.length is None or isinstance(source.length, int)):
                raise ValueError(f"the length {quoted(source.length)}")
        except ValueError as error:
            raise UserError(f"{path}: {printable(name, 60)} has {error}; correct the meta file.") from None
        root, annotation = (str(path.parent / each) for each in (source.root, source.annotation))
        found.append(replace(source, root=root, annotation=annotation))
    if not found:
        raise UserError(f"{path}: names no file of rows; give one with at least one entry.")
    return found


def _read(path: Path) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    """(where, number, row) of every row of a file of JSON lines, or of one list."""
    if path.suffix != ".json":
        yield from ((f"{path}, line {number}", number, row) for number, row in read_lines(path))
        return
    rows = read_json(path, "give a file of rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: not a list of rows with image and conversations; give a file of rows.")
    yield from ((f"{path}, row {number}", number, row) for number, row in enumerate(rows))


def paths_of(row: Mapping[str, Any], key: str) -> list[str]:
    """The paths of a row, which has one, a list of them, or none. Raises ValueError for what is no path."""
    value = row.get(key)
    paths = value if isinstance(value, list) else [value]
    for path in paths:
        if not (path is None or isinstance(path, str)):
            raise ValueError(f"{key} {quoted(path)} is not a path")
    return [path for path in paths if path]


def one_path(row: Mapping[str, Any], key: str) -> str | None:
    """The one path of a row, None if it has none. Raises ValueError for several, and for what is no path."""
    paths = paths_of(row, key)
    if len(paths) > 1:
        raise ValueError(f"it names {len(paths)} {key}s, but one is read: give a row for each")
    return paths[0] if paths else None


def _united(turns: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """The turns with a list of masks as one: "<mask>, <mask> and <mask>." becomes "<mask>." Raises ValueError where
    the masks are no list."""
    found = tuple((role, LISTED.sub(MASK, text)) for role, text in turns)
    if sum(text.count(MASK) for _, text in found) > 1:
        raise ValueError("its masks answer different questions, but one is read: give a row for each")
    return found


def _turns(conversation: list[Any]) -> Iterator[tuple[str, str]]:
    """(role, text) of every turn. Raises ValueError unless the user and the assistant speak by turns."""
    turns = [turn for turn in conversation if not (isinstance(turn, dict) and turn.get("from") == "system")]
    roles = [ROLES.get(entry(turn, "from", str), "") for turn in turns]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise ValueError("the conversation is not of human and gpt by turns")
    for number, (role, turn) in enumerate(zip(roles, turns, strict=True)):
        text = SPAN.sub(MASK, entry(turn, "value", str))
        if text.count(IMAGE) > (number == 0):
            raise ValueError("there is more than one <image>, or one in a later turn")
        yield role, text if number or IMAGE in text else f"{IMAGE}\n{text}"


def _binary(image: Image.Image, size: Size) -> np.ndarray:
    """bool [H, W] of a mask's image, at a size: above the middle of 0..255, or of 0..1."""
    grey = image.convert("L")
    values = np.asarray(grey if grey.size == size[::-1] else grey.resize(size[::-1], Image.Resampling.NEAREST))
    return values > (127 if values.max() > 1 else 0)


READER = ConversationDataset
