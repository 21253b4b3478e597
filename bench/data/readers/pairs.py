"""Images with words, to learn to describe them or to generate them: Hugging Face's image folders, or ARGenSeg's rows
of generation.

metadata.jsonl: a line for every image, {"file_name": path, "text": words} ("caption" or "prompt" will do for "text").
ARGenSeg's rows have no image, and in the place of the mask the image that the answer is to write:
{"mask": path, "conversations": [{"from": "human", "value": words}, {"from": "gpt", "value": "... <mask>."}]}.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.data.readers.conversations import one_path
from bench.data.readers.image_files import ImageFiles
from bench.data.readers.places import NotThere, file_of_rows
from bench.data.readers.referents import Referent, ReferentDataset, entry
from methods.base import UserError
from methods.files import read_lines

WORDS = ("text", "caption", "prompt")
QUESTION = "Describe this image."  # of the task "caption"


class PairDataset(ReferentDataset):
    """One Example per image, with its words as `answer`, for the tasks "caption" and "generate"; `ref_id` is the
    line's number. Lines without words, and rows of conversations that generate nothing, are left out and counted.

    `root` is the file, or a folder with metadata.jsonl or one *.jsonl; paths start at `images`, else at the file's
    folder. kinds: must hold "caption", the only kind of text here. limit: the first images only.
    """

    serves = "texts"
    layout = "metadata.jsonl or one *.jsonl in <root>, or the file itself"

    def __init__(
        self, root: Path | str, split: str, name: str = "pairs", images: Path | str | None = None,
        kinds: Collection[str] | None = None, limit: int | None = None, opens_images: bool = True,
    ) -> None:  # fmt: skip
        path = self.find(root, name, split)
        if path is None:
            raise NotThere(f"{root}: has no metadata.jsonl and no single *.jsonl; give the file as root.")
        if kinds is not None and "caption" not in kinds:
            raise UserError(f"{path}: holds images with words, no questions; use the tasks caption or generate.")
        self._left = 0
        referents = []
        for number, row in read_lines(path):
            try:
                referent = _referent(number, row)
            except ValueError as error:
                raise UserError(f"{path}, line {number}: {error}; correct it or leave the line out.") from None
            referents += [referent] if referent else []
            self._left += referent is None
        folder = ImageFiles(Path(images) if images else path.parent, opens_images)
        super().__init__(name, split, path, folder, referents[:limit])

    @classmethod
    def find(cls, root: Path | str, name: str, split: str) -> Path | None:
        return file_of_rows(Path(root), "metadata.jsonl")

    def masks(self, referent: Referent) -> tuple[None, None]:
        return None, None

    def texts(self) -> Iterator[str]:
        yield QUESTION
        yield from (referent.answer or "" for referent in self.referents)

    def remarks(self) -> list[str]:
        left = [f"{self._left} lines without words or image are left out"] if self._left else []
        return [*super().remarks(), *left]


def _referent(number: int, row: Mapping[str, Any]) -> Referent | None:
    """The image of a line, None if it has none or no words. Raises ValueError saying what is wrong with it."""
    if "conversations" in row:
        turns = entry(row, "conversations", list)
        image = None if one_path(row, "image") else one_path(row, "mask")
        words = next((entry(turn, "value", str) for turn in turns if entry(turn, "from", str) in ("human", "user")), "")
    else:
        image = entry(row, "file_name", str)
        words = next((entry(row, key, str) for key in WORDS if key in row), "")
    if not image or not words.strip():
        return None
    words = words.strip()
    return Referent(number, image, image, None, (QUESTION,), (0,), answer=words, task="caption",
                    facts={"kind": "caption"})  # fmt: skip


READER = PairDataset
