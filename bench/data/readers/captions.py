"""Captions and questions of RefMoji (`captions.json`): text to learn, no masks."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from bench.data.dataset import Dataset, SampleInfo
from bench.data.readers.image_files import checked_path
from bench.data.readers.places import NotThere
from methods.base import Example, UserError
from methods.files import read_json

KINDS = ("caption", "question", "what", "colour", "count", "where")


class CaptionDataset(Dataset):
    """One Example per caption or question of a split: task "caption" or "question", `expressions` holds the question
    and `answer` the text to learn. `kinds` keeps some of KINDS, `limit` the first records only; `images` is the folder
    of the images (default `<root>/images`)."""

    serves = "texts"
    layout = "captions.json with images/ in <root>"

    def __init__(
        self, root: Path | str, split: str, name: str = "refmoji", kinds: Collection[str] | None = None,
        limit: int | None = None, images: Path | str | None = None,
    ) -> None:  # fmt: skip
        self.name, self.split = name, split
        self.path = Path(root) / "captions.json"
        self.images = Path(images) if images is not None else Path(root) / "images"
        unknown = set(kinds or ()) - set(KINDS)
        if unknown:
            raise UserError(f"There is no kind {sorted(unknown)[0]!r} of question; choose from {', '.join(KINDS)}.")
        records = self._read()
        splits = sorted({record["split"] for record in records})
        if split not in splits:
            raise UserError(f"{self.path}: has no questions for split {split!r}; it has {', '.join(splits) or 'none'}.")
        mine = [record for record in records if record["split"] == split and (kinds is None or record["kind"] in kinds)]
        worded = [record for record in mine if record["question"].strip() and record["answer"].strip()]
        self._wordless = len(mine) - len(worded)
        self._records = worded[:limit]

    def _read(self) -> list[dict]:
        if not self.path.exists():
            raise NotThere(f"{self.path}: no such file; give the folder that holds it, or build the dataset.")
        needed = {"image_id", "file_name", "split", "kind", "question", "answer"}
        records = read_json(self.path, "give the folder that holds it, or build the dataset with `genseg data build`")
        if not isinstance(records, list):
            raise UserError(f"{self.path}: holds a {type(records).__name__}, not a list of questions; build it again.")
        for number, record in enumerate(records):
            if not isinstance(record, dict) or not needed <= record.keys():
                raise UserError(
                    f"{self.path}: record {number} lacks one of {', '.join(sorted(needed))}; build it again."
                )
            if not all(isinstance(record[key], str) for key in needed - {"image_id"}):
                raise UserError(f"{self.path}: record {number} has a value that is no text; build it again.")
            name, first = record["image_id"], records[0]["image_id"]
            if type(name) is not type(first) or type(name) not in (int, str):
                raise UserError(
                    f"{self.path}: record {number} has the image_id {name!r}, but all must be numbers, or all text; "
                    f"build it again."
                )
        return records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        record = self._records[index]
        path = checked_path(self.images, record["file_name"], f"question {index} of {self.path}")
        if not path.exists():
            raise UserError(f"{path}: missing image of a question; build the dataset again.")
        return Example(
            image=path, expressions=(record["question"],), dataset=self.name, split=self.split,
            image_id=record["image_id"], ref_id=index, task="caption" if record["kind"] == "caption" else "question",
            answer=record["answer"], facts={"kind": record["kind"]},
        )  # fmt: skip

    def info(self, index: int) -> SampleInfo:
        record = self._records[index]
        return SampleInfo(index, record["image_id"], (record["question"],), (0,))

    def remarks(self) -> list[str]:
        return [f"{self._wordless} questions without words or answer are left out"] if self._wordless else []

    def image_paths(self) -> list[Path]:
        """Where the split's images are to lie, one per record; none is looked for."""
        return [self.images / record["file_name"] for record in self._records]

    def texts(self) -> Iterator[str]:
        """Every question and every answer, for a text tokenizer that is trained from scratch."""
        for record in self._records:
            yield from (record["question"], record["answer"])


READER = CaptionDataset
