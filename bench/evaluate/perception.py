"""Mask perception: a mask is given, and the expression that fits it is to be chosen among several.

The questions are those of bench.data.perception. An answer that names no option is a failure and wrong; HiMTok's own
evaluation reads it as "A", and the article in "a dog" as well. Beside what a model writes stands which option it finds
likeliest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from bench.data.perception import LETTERS, plain
from bench.evaluate.statistics import Interval, ratio_intervals
from bench.runtime import to_device
from methods.base import Example, Model, Request


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
        own = plain(text.rstrip("."))
        found = frozenset(letter for letter, option in zip(letters, options, strict=True) if plain(option) == own)
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


def summary(scored: Sequence[Scored], images: Sequence[Any], seed: int = 0) -> dict[str, Interval]:
    """ "accuracy", "failures" and "chance" as shares of all questions, with intervals over images."""
    ones = np.ones(len(scored))
    columns = {"accuracy": "right", "failures": "failed", "chance": "chance"}
    table = {name: (np.array([float(getattr(s, key)) for s in scored]), ones) for name, key in columns.items()}
    return ratio_intervals(table, images, seed)
