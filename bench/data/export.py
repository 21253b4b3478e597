"""Any dataset as training conversations in HiMTok's or ARGenSeg's form, which `readers/conversations.py` reads back."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.data.dataset import Dataset
from bench.data.readers.conversations import IMAGE, MASK, asked_for
from methods.base import Example, UserError
from methods.files import quoted, whole_folder, write_atomic, write_lines

FORMS = ("himtok", "argenseg")
SPAN = "<|mt_start|>" + "<|mt_0|>" * 32 + "<|mt_end|>"  # what HiMTok's loader writes the codes of the mask into
REQUESTS = {
    "himtok": "Segment <ref>{phrase}</ref>.",
    "argenseg": "Given the following instructions: {phrase}; please perform referring segmentation on this image.",
}
ANSWERS = {"himtok": f"The mask appears at {MASK}.", "argenseg": f"Sure, the segmentation result: {MASK}."}
SPECIAL = re.compile(rf"{IMAGE}|{MASK}|<\|mt_")  # what stands for something else in a row
ROLES = {"user": "human", "assistant": "gpt"}
Row = dict[str, Any]


def export(dataset: Dataset, form: str, out: Path, limit: int = 0) -> dict[str, int]:
    """Write a row per sentence (or conversation) of a dataset, of its first `limit` samples if not 0.

    `out` becomes a folder with rows.jsonl, masks/, and meta.json, whose root is the deepest folder that holds both the
    images and `out`; images stay where they are, but those that were resized or turned are written to images/. Returns
    how many "rows", "masks" and samples "left out" (those that refer to nothing, which no row can say) there are.
    Raises UserError for another form, if `out` holds anything, or if the samples have neither masks nor words.
    """
    if form not in FORMS:
        raise UserError(f"There is no form {form!r} of training rows; choose {' or '.join(FORMS)}.")
    if dataset.serves not in ("masks", "texts", "conversations"):
        raise UserError(f"{dataset.name} holds {dataset.serves}, of which no row can be made; export other data.")
    out = Path(os.path.abspath(out))
    with whole_folder(out) as draft:
        writer = _Writer(dataset, form, out, draft)
        rows = [row for index in range(min(len(dataset), limit or len(dataset))) for row in writer.rows_of(index)]
        if not rows:
            raise UserError(f"{dataset.name} {dataset.split}: no sample can be written as a row; export other data.")
        writer.finish(rows)
    return {"rows": len(rows), "masks": writer.masks, "left out": writer.left_out}


class _Writer:
    """Rows of a dataset; masks and images go to the draft of the folder as they come."""

    def __init__(self, dataset: Dataset, form: str, out: Path, draft: Path) -> None:
        self.dataset, self.form, self.out, self.draft = dataset, form, out, draft
        self.masks = self.left_out = 0
        self._images: dict[int | str, Path] = {}

    def rows_of(self, index: int) -> Iterator[Row]:
        """The rows of a sample; image and mask are absolute paths yet."""
        example = self.dataset[index]
        if example.no_target:
            self.left_out += 1
            return
        turns = list(self._turns(example))
        row: Row = {"image": self._image(example)}
        if example.mask is not None:
            row["mask"] = self._mask(example.mask, index)
        for number, conversation in enumerate(turns):
            own = {"id": f"{example.ref_id}-{number}", "dataset": example.dataset} if self.form == "argenseg" else {}
            yield own | row | {"conversations": [
                {"from": ROLES[role], "value": self._value(text)} for role, text in conversation
            ]}  # fmt: skip

    def _turns(self, example: Example) -> Iterator[Sequence[tuple[str, str]]]:
        """The conversations about a sample."""
        if example.turns:
            yield example.turns
            return
        for phrase in example.expressions:
            request = phrase if example.mask is None else REQUESTS[self.form].format(phrase=phrase)
            answer = example.answer or "" if example.mask is None else ANSWERS[self.form]
            text = f"{IMAGE}\n{request}"
            if asked_for(text, example.mask is not None) != phrase or SPECIAL.search(phrase + (example.answer or "")):
                where = f"{example.dataset} sample {example.ref_id}"
                raise UserError(f"{where}: {quoted(phrase)} cannot stand in a row; leave the sample out.")
            yield (("user", text), ("assistant", answer))

    def _value(self, text: str) -> str:
        return text.replace(MASK, SPAN) if self.form == "himtok" else text

    def _image(self, example: Example) -> Path:
        if isinstance(example.image, Path):
            return Path(os.path.abspath(example.image))
        if example.image_id not in self._images:
            name = Path("images") / f"{len(self._images):08}.png"
            self._save(example.image, name)
            self._images[example.image_id] = self.out / name
        return self._images[example.image_id]

    def _mask(self, mask: np.ndarray, index: int) -> Path:
        name = Path("masks") / f"{index:08}.png"
        self._save(Image.fromarray(np.uint8(255 * mask)), name)
        self.masks += 1
        return self.out / name

    def _save(self, image: Image.Image, name: Path) -> None:
        (self.draft / name).parent.mkdir(exist_ok=True)
        image.save(self.draft / name)

    def finish(self, rows: Sequence[Row]) -> None:
        """Write the rows with paths from the common root, and the meta file."""
        root = os.path.commonpath([self.out, *{row["image"].parent for row in rows}])
        for row in rows:
            row["image"] = os.path.relpath(row["image"], root)
            if "mask" in row:  # ARGenSeg's loader takes the mask's path as it is
                row["mask"] = os.path.relpath(row["mask"], root) if self.form == "himtok" else str(row["mask"])
        write_lines(self.draft / "rows.jsonl", rows)
        meta = {self.dataset.name: {"root": root, "annotation": str(self.out / "rows.jsonl"), "data_augment": False,
                                    "repeat_time": 1, "length": len(rows)}}  # fmt: skip
        write_atomic(self.draft / "meta.json", json.dumps(meta, indent=1, ensure_ascii=False))
