"""Mask perception: a mask is given, and the expression that fits it is to be chosen among several.

The questions are made from any referring dataset, one per referent. Wrong expressions come from other objects of the
same image, which only looking at the mask can exclude, and from other images. They serve training and evaluation alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.data.dataset import Dataset, SampleInfo
from methods.base import Example, UserError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SAME_OBJECT = 0.5  # IoU above which two referents of an image count as one
PERCEPTION_TASKS = ("choose", "choose_several")  # of training
TRIES = 50  # other images looked at per wrong expression


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

    def image_paths(self) -> Sequence[Path]:
        return self.dataset.image_paths()

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
        known = {plain(sentence) for sentence in sentences}
        near = self._near(index, example, known, rng)[: (self.options - count + 1) // 2]
        far = self._far(index, known | {plain(text) for text in near}, self.options - count - len(near), example, rng)
        pairs = [(t, "right") for t in right] + [(t, "same_image") for t in near] + [(t, "other_image") for t in far]
        pairs = [pairs[i] for i in rng.permutation(len(pairs))]
        letters = ", ".join(letter for letter, (_, source) in zip(LETTERS, pairs, strict=False) if source == "right")
        facts = {"options": tuple(text for text, _ in pairs), "sources": tuple(source for _, source in pairs)}
        return replace(example, answer=letters, facts={**example.facts, **facts})

    def _near(self, index: int, example: Example, known: set[str], rng: np.random.Generator) -> list[str]:
        """One sentence of each other object of the image, in random order."""
        found: dict[str, str] = {}
        for other in rng.permutation(self._neighbours[index]).tolist():
            if other != index and not _overlap(example, self.dataset[other]):
                texts = [text for text in self.dataset[other].expressions if plain(text) not in known | found.keys()]
                if texts:
                    text = texts[rng.integers(len(texts))]
                    found[plain(text)] = text
        return list(found.values())

    def _far(self, index: int, known: set[str], count: int, example: Example, rng: np.random.Generator) -> list[str]:
        """`count` sentences of other images."""
        found: dict[str, str] = {}
        for _ in range(TRIES * count):
            if len(found) == count:
                break
            other = int(rng.integers(len(self.dataset)))
            if other not in self._neighbours[index]:
                texts = self.dataset.info(other).expressions
                text = texts[rng.integers(len(texts))]
                if plain(text) not in known:
                    found[plain(text)] = text
        if len(found) < count:
            raise UserError(
                f"{example.dataset} sample {example.ref_id}: the dataset has too few different expressions for "
                f"{self.options} options; ask for fewer or take a larger split."
            )
        return list(found.values())


def plain(text: str) -> str:
    """Words without what makes no difference to an answer: case and spaces."""
    return " ".join(text.casefold().split())


def _overlap(first: Example, second: Example) -> bool:
    if second.mask is None:
        return False
    union = (first.mask | second.mask).sum()
    return bool((first.mask & second.mask).sum() > SAME_OBJECT * union)
