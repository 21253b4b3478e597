"""Mask perception: a mask is given, and the expression that fits it is to be chosen among several.

The questions are those of bench.data.perception. An answer that names no option is a failure and wrong; the official
evaluation reads it as "A", and the article in "a dog" as well. Beside what a model writes stands which option it finds
likeliest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from bench.data.perception import LETTERS
from bench.evaluate.letters import read_letters
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
        scored.append(Scored(found == frozenset((question.answer or "").split(", ")), found is None, chance))
    return scored


def summary(scored: Sequence[Scored], images: Sequence[Any], seed: int = 0) -> dict[str, Interval]:
    """ "accuracy", "failures" and "chance" as shares of all questions, with intervals over images."""
    ones = np.ones(len(scored))
    columns = {"accuracy": "right", "failures": "failed", "chance": "chance"}
    table = {name: (np.array([float(getattr(s, key)) for s in scored]), ones) for name, key in columns.items()}
    return ratio_intervals(table, images, seed)
