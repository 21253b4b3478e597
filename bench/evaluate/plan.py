"""What is asked of every method: one line per question, in an order that keeps an image's questions together.

Protocols (never mix them in one table): "per_expression" asks one question per sentence (LISA, Sa2VA);
"per_object_joined" asks one per object, with all its sentences in one prompt (PSALM, HiMTok, ARGenSeg).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.config import PROTOCOLS
from bench.data.dataset import Dataset
from methods.base import UserError


@dataclass(frozen=True)
class Question:
    """index: of the example in the dataset; sent_id: position of the sentence, or -1 for all of them."""

    index: int
    sent_id: int
    expressions: tuple[str, ...]


def plan(dataset: Dataset, protocol: str, limit: int = 0) -> list[Question]:
    """All questions of a protocol, or the first `limit`. Raises UserError for an unknown protocol."""
    if protocol not in PROTOCOLS:
        raise UserError(f"There is no protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}.")
    questions: list[Question] = []
    for _, indices in dataset.by_image():
        for index in indices:
            info = dataset.info(index)
            if protocol == "per_expression":
                pairs = zip(info.positions, info.expressions, strict=True)
                questions += [Question(index, position, (sentence,)) for position, sentence in pairs]
            else:
                questions.append(Question(index, -1, info.expressions))
            if limit and len(questions) >= limit:
                return questions[:limit]
    return questions


def objects_of(dataset: Dataset, questions: Sequence[Question]) -> list[int]:
    """The distinct examples that the questions ask for, in order."""
    return list(dict.fromkeys(question.index for question in questions))
