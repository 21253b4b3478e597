"""Mask Perception as HiMTok's release has it: a mask is given in the question, and the option that fits it is asked.

`mask_perception.json` is a list of {"image": path, "question": text, "answer": letter}. The mask stands in the
question as mask tokens of HiMTok's own vocabulary, <|mt_start|><|mt_17|>...<|mt_end|>, which other methods cannot
read. Questions of this kind about any dataset, for any method, are made by `bench.data.perception`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bench.data.readers.image_files import ImageFiles
from bench.data.readers.places import NotThere, find_file, images_beside
from bench.data.readers.referents import Referent, ReferentDataset, entry
from methods.base import UserError
from methods.files import quoted, read_json

FILE = "mask_perception.json"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SPAN = re.compile(r"<\|mt_start\|>((?:<\|mt_\d+\|>)*)<\|mt_end\|>")
OPTION = re.compile(r"(?<!\S)([A-Z])[.)]\s+")
ANSWER = re.compile(r"\s*[(\[]?([A-Za-z])(?![A-Za-z])")  # "B", "b", "(B)", "B. the box"


class MaskPerceptionDataset(ReferentDataset):
    """One Example per question: `expressions` holds it as it is written, `answer` the right letter, and
    `facts["mask_tokens"]` the numbers in its mask span, `facts["options"]` the options' words, () where the question
    lists none in the form "A. ... B. ...". `ref_id` is the place in the file, from 0.

    `root` is the file, its folder, or the folder above `Mask_Perception`; `images` the folder of the images (default:
    `images` beside the file), or any folder above it that the paths name. limit: the first questions only.
    """

    serves, task, wants = "choices", "perceive", ("text",)
    layout = f"{FILE} in <root> or <root>/Mask_Perception"

    def __init__(
        self, root: Path | str, split: str, name: str = "mask-perception", images: Path | str | None = None,
        limit: int | None = None, opens_images: bool = True,
    ) -> None:  # fmt: skip
        path = find_file(root, [FILE], ["Mask_Perception"])
        if path is None:
            raise NotThere(f"{root}: has no {FILE}; give the folder that holds it.")
        items = read_json(path, "get the file again")
        if not isinstance(items, list):
            raise UserError(f"{path}: not a list of questions with image and answer; get the file again.")
        referents = []
        for number, item in enumerate(items):
            try:
                referents.append(_question(number, item))
            except ValueError as error:
                raise UserError(f"{path}: question {number} has {error}; correct or remove it.") from None
        folder = ImageFiles(images_beside(path, images), opens_images)
        super().__init__(name, split, path, folder, referents[:limit])

    def masks(self, referent: Referent) -> tuple[None, None]:
        return None, None

    def remarks(self) -> list[str]:
        unlisted = sum(not referent.facts["options"] for referent in self.referents)
        found = [f"{unlisted} questions list no options A., B., ..."] if unlisted else []
        return super().remarks() + found


def _question(number: int, item: Any) -> Referent:
    """A question. Raises ValueError saying what is wrong with it."""
    image, text, answer = (entry(item, key, str) for key in ("image", "question", "answer"))
    span, letter = SPAN.search(text), ANSWER.match(answer)
    if span is None:
        raise ValueError("no mask span <|mt_start|>...<|mt_end|> in its question")
    options = options_of(text[span.end() :])
    if letter is None or (options and letter[1].upper() not in LETTERS[: len(options)]):
        raise ValueError(f"the answer {quoted(answer)}, which is the letter of no option")
    facts = {"options": options, "mask_tokens": tuple(map(int, re.findall(r"\d+", span[1])))}
    return Referent(
        number, image, image, None, (text,), (0,), answer=letter[1].upper(), task="choose", facts=facts
    )  # fmt: skip


def options_of(text: str) -> tuple[str, ...]:
    """The options that a question lists as "A. ... B. ...", on one line or a line each; words on a further line behind
    the last are none of its own. () if they do not run from A on."""
    marks = list(OPTION.finditer(text))
    if not marks or "".join(mark[1] for mark in marks) != LETTERS[: len(marks)]:
        return ()
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return tuple(text[mark.end() : end].split("\n")[0].strip() for mark, end in zip(marks, ends, strict=True))


READER = MaskPerceptionDataset
