"""Mask perception: a mask is given, and the expression that fits it is to be chosen among several.

The questions are made from any referring dataset, one per referent. Wrong expressions come from other objects of the
same picture, which only looking at the mask can exclude, and from other pictures. An answer that names no option is a
failure and wrong; HiMTok's own evaluation reads it as "A", and the article in "a dog" as well. Beside what a model
writes stands which option it finds likeliest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.data.dataset import Dataset, SampleInfo
from bench.evaluate.statistics import Interval, ratio_intervals
from bench.train.engine import to_device
from methods.base import Example, Model, Request, UserError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SAME_OBJECT = 0.5  # IoU above which two referents of a picture count as one
TRIES = 50  # other pictures looked at per wrong expression


class PerceptionSet(Dataset):
    """A dataset of questions: example i is referent i of `dataset` with `facts["options"]` (a tuple of expressions),
    `facts["sources"]` (right, same_image or other_image, along them) and `answer`, the right letters ("B" or "A, C").

    several: more than one option may be right, all of them sentences of the referent. Every choice is a function of
    `seed` and the position, so that examples can be taken in any order. A set serves the trainer's tasks `choose` and
    `choose_several` as well as the evaluation.
    """

    def __init__(self, dataset: Dataset, options: int = 4, several: bool = False, seed: int = 0) -> None:
        if not 2 <= options <= len(LETTERS):
            raise UserError(f"A question has 2 to {len(LETTERS)} options, not {options}.")
        self.name, self.dataset = dataset.name, dataset
        self.options, self.several, self.seed = options, several, seed
        self._neighbours = {index: group for _, group in dataset.by_image() for index in group}

    def __len__(self) -> int:
        return len(self.dataset)

    def info(self, index: int) -> SampleInfo:
        return self.dataset.info(index)

    def picture_paths(self) -> Sequence[Path]:
        return self.dataset.picture_paths()

    def texts(self) -> Iterator[str]:
        """None of its own: its expressions are the dataset's."""
        return iter(())

    def __getitem__(self, index: int, /) -> Example:  # type: ignore[override]
        rng = np.random.default_rng([self.seed, index])
        example = self.dataset[index]
        if example.mask is None or not example.mask.any():
            raise UserError(f"{example.dataset} sample {example.ref_id}: no mask to ask about; leave it out.")
        sentences = list(dict.fromkeys(example.expressions))
        most = min(len(sentences), self.options - 1) if self.several else 1
        count = int(rng.integers(1, most + 1))
        right = [sentences[i] for i in rng.permutation(len(sentences))[:count]]
        known = {_key(sentence) for sentence in sentences}
        near = self._near(index, example, known, rng)[: (self.options - count + 1) // 2]
        far = self._far(index, known | {_key(text) for text in near}, self.options - count - len(near), example, rng)
        pairs = [(t, "right") for t in right] + [(t, "same_image") for t in near] + [(t, "other_image") for t in far]
        pairs = [pairs[i] for i in rng.permutation(len(pairs))]
        letters = ", ".join(letter for letter, (_, source) in zip(LETTERS, pairs, strict=False) if source == "right")
        facts = {"options": tuple(text for text, _ in pairs), "sources": tuple(source for _, source in pairs)}
        return replace(example, answer=letters, facts={**example.facts, **facts})

    def _near(self, index: int, example: Example, known: set[str], rng: np.random.Generator) -> list[str]:
        """One sentence of each other object of the picture, in random order."""
        found: dict[str, str] = {}
        for other in rng.permutation(self._neighbours[index]).tolist():
            if other != index and not _overlap(example, self.dataset[other]):
                texts = [text for text in self.dataset[other].expressions if _key(text) not in known | found.keys()]
                if texts:
                    text = texts[rng.integers(len(texts))]
                    found[_key(text)] = text
        return list(found.values())

    def _far(self, index: int, known: set[str], count: int, example: Example, rng: np.random.Generator) -> list[str]:
        """`count` sentences of other pictures."""
        found: dict[str, str] = {}
        for _ in range(TRIES * count):
            if len(found) == count:
                break
            other = int(rng.integers(len(self.dataset)))
            if other not in self._neighbours[index]:
                texts = self.dataset[other].expressions
                text = texts[rng.integers(len(texts))]
                if _key(text) not in known:
                    found[_key(text)] = text
        if len(found) < count:
            raise UserError(
                f"{example.dataset} sample {example.ref_id}: the dataset has too few different expressions for "
                f"{self.options} options; ask for fewer or take a larger split."
            )
        return list(found.values())


def _key(text: str) -> str:
    return " ".join(text.casefold().split())


def _overlap(first: Example, second: Example) -> bool:
    if second.mask is None:
        return False
    union = (first.mask | second.mask).sum()
    return bool((first.mask & second.mask).sum() > SAME_OBJECT * union)


# ---- asking and scoring ---------------------------------------------------------------------------------------------


def ask(model: Model, questions: Sequence[Example], several: bool, batch: int = 16) -> list[str]:
    """A method's answers to questions of a PerceptionSet, as text."""
    want = ("choices",) if several else ("choice",)
    texts: list[str] = []
    for start in range(0, len(questions), batch):
        part = [questions[i] for i in range(start, min(start + batch, len(questions)))]
        requests = [Request(e.image, tuple(e.facts["options"]), want, mask=e.mask) for e in part]
        texts += [prediction.text for prediction in model.segment(requests)]
    return texts


@torch.inference_mode()
def likeliest(model: Model, questions: Sequence[Example]) -> list[str]:
    """The letter of the option that a method finds the likeliest answer to each question, where one option is right:
    the least "text" part of its training loss, which is a mean over the answer's tokens.

    For models too small to refer to a letter: they may still know what a mask shows. The model enters its last stage.
    """
    model.enter_stage(model.stages[-1])
    model.eval()
    letters: list[str] = []
    for question in questions:
        losses = {}
        for letter in LETTERS[: len(question.facts["options"])]:
            sample = model.processor.prepare(replace(question, answer=letter), "choose", np.random.default_rng(0))
            losses[letter] = float(model.loss(to_device(model.processor.collate([sample]), model.device))["text"])
        letters.append(min(losses, key=losses.__getitem__))
    return letters


ONE = r"[(\[]?([A-Z])[)\]]?"
LIST = re.compile(rf"{ONE}(?:(?:\s*,?\s*(?:and|&)\s*|\s*[,;]\s*){ONE})*\s*\.?")
LEADING = re.compile(r"(?:[(\[]([A-Z])[)\]][.:,]?|([A-Z])[.:)])\s+\S.*", re.DOTALL)
ANNOUNCED = re.compile(  # perhaps behind a sentence or more
    r"(?:.*[.:;!?]\s+)?(?:the\s+)?(?:correct\s+|right\s+)?(?:answers?|options?|letters?)(?:\s+(?:is|are))?\s*:?\s+(.*)",
    re.IGNORECASE | re.DOTALL,
)


def read_letters(text: str, options: Sequence[str], several: bool = False) -> frozenset[str] | None:
    """The letters that an answer names, or None if it names none, or more than it may.

    Read are "B", "(B).", "B. the red car", "The answer is B" (after other sentences as well), "A, C", "A and C", and an
    option's own words. A letter within a sentence is not read: "A dog" is no answer.
    """
    text = text.replace("<|im_end|>", "").strip()
    letters = LETTERS[: len(options)]
    announced = ANNOUNCED.fullmatch(text)
    named = announced[1].strip() if announced else text
    named = named.upper() if len(named.rstrip(".")) == 1 else named
    leading = LEADING.fullmatch(named)
    if LIST.fullmatch(named):
        found = frozenset(re.findall(r"[A-Z]", named))
    elif leading:
        found = frozenset(leading[1] or leading[2])
    else:
        own = _key(text.rstrip("."))
        found = frozenset(letter for letter, option in zip(letters, options, strict=True) if _key(option) == own)
    if not found:
        return None
    return found if found <= set(letters) and (several or len(found) == 1) else None


@dataclass(frozen=True)
class Scored:
    """One question: whether exactly the right letters were named, whether none could be read, what guessing gets."""

    right: bool
    failed: bool
    chance: float


def score(questions: Sequence[Example], texts: Sequence[str], several: bool = False) -> list[Scored]:
    """Compare answers with the truth. Raises ValueError if their numbers differ."""
    scored = []
    for question, text in zip(questions, texts, strict=True):
        options = question.facts["options"]
        found = read_letters(text, options, several)
        chance = 1 / (2 ** len(options) - 1) if several else 1 / len(options)
        scored.append(Scored(found == frozenset(question.answer.split(", ")), found is None, chance))
    return scored


def summary(scored: Sequence[Scored], pictures: Sequence[Any], seed: int = 0) -> dict[str, Interval]:
    """ "accuracy", "failures" and "chance" as shares of all questions, with intervals over pictures."""
    ones = np.ones(len(scored))
    columns = {"accuracy": "right", "failures": "failed", "chance": "chance"}
    table = {name: (np.array([float(getattr(s, key)) for s in scored]), ones) for name, key in columns.items()}
    return ratio_intervals(table, pictures, seed)
