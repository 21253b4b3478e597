"""What is asked of every method: one line per question, in an order that keeps an image's questions together.

A protocol (bench/evaluate/protocols.py; never mix them in one table) asks about each sentence by itself, about all
sentences of a sample in one question, or about the first alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.data.dataset import Dataset
from methods.base import UserError
from methods.protocols import SENTENCES

ALIASES = {"per_expression": "each", "per_object_joined": "joined"}


@dataclass(frozen=True)
class Question:
    """index: of the example in the dataset; sent_id: position of the sentence, or -1 for the sample's only question."""

    index: int
    sent_id: int
    expressions: tuple[str, ...]


def plan(dataset: Dataset, sentences: str, limit: int = 0, targets: bool = False) -> list[Question]:
    """All questions about "each" sentence, all "joined" or the "first" (or as the protocols per_expression and
    per_object_joined ask), or the first `limit` of them; targets: of samples that refer to something alone. Raises
    UserError for another rule."""
    rule = ALIASES.get(sentences, sentences)
    if rule not in SENTENCES:
        raise UserError(f"There is no rule {sentences!r} for sentences; choose one of {', '.join(SENTENCES)}.")
    questions: list[Question] = []
    for _, indices in dataset.by_image():
        for index in indices:
            info = dataset.info(index)
            if targets and info.no_target:
                continue
            if rule == "each":
                pairs = zip(info.positions, info.expressions, strict=True)
                questions += [Question(index, position, (sentence,)) for position, sentence in pairs]
            else:
                questions.append(Question(index, -1, info.expressions if rule == "joined" else info.expressions[:1]))
            if limit and len(questions) >= limit:
                return questions[:limit]
    return questions


def questions_in(counts: Mapping[str, int], sentences: str, limit: int = 0) -> int | None:
    """How many questions `plan` makes of a split with so many "referents" and "expressions"; where the former are not
    known the latter, which are at least as many. None if neither is."""
    expressions = counts.get("expressions", counts.get("referents"))
    found = expressions if ALIASES.get(sentences, sentences) == "each" else counts.get("referents", expressions)
    return min(found, limit) if found is not None and limit else found


def objects_of(dataset: Dataset, questions: Sequence[Question]) -> list[int]:
    """The distinct examples that the questions ask for, in order."""
    return list(dict.fromkeys(question.index for question in questions))
