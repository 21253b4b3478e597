"""Captions and questions with short answers, for the part of training that is not segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.refmoji.claims import TESTS, Claim, could_be
from bench.refmoji.expressions import Speaker
from bench.refmoji.layout import pick
from bench.refmoji.lexicon import Entry, lexicon
from bench.refmoji.phrases import TAILS
from bench.refmoji.seen import Seen, View
from bench.refmoji.special import NUMBERS

DESCRIBE = ("Describe the picture.", "What is in this picture?", "Give a short description of the image.",
            "What does the image show?", "Write a caption for this picture.")  # fmt: skip
QUESTIONS = 2  # per image, beside its caption
LISTED = 6  # kinds of things in a caption, at most


def questions(view: View, speaker: Speaker, cast: Sequence[Entry], rng: np.random.Generator) -> list[dict[str, Any]]:
    """A caption and some questions: records {kind, question, answer}."""
    made = [_record("caption", pick(rng, DESCRIBE), _caption(view, rng))]
    makers = (_what, _colour, _count, _where)
    for index in rng.permutation(len(makers)):
        record = makers[index](view, speaker, cast, rng)
        if record:
            made.append(record)
        if len(made) > QUESTIONS:
            break
    return made


def _record(kind: str, question: str, answer: str) -> dict[str, Any]:
    return {"kind": kind, "question": question, "answer": answer}


def _caption(view: View, rng: np.random.Generator) -> str:
    """`Two dogs, a red car and a banana on the grass.`: the largest kinds of things first."""
    groups: dict[str, list[Seen]] = {}
    for item in sorted(view.objects, key=lambda item: -item.area):
        groups.setdefault(item.entry.name, []).append(item)
    parts = []
    for name, items in list(groups.items())[:LISTED]:
        if len(items) > 1:
            parts.append(f"{NUMBERS[len(items)]} {lexicon().plural(name)}")
        else:
            colour = f"{items[0].colour} " if items[0].colour and rng.random() < 0.6 else ""
            parts.append(lexicon().article(colour + name, name))
    text = ", ".join(parts[:-1]) + f" and {parts[-1]}" if len(parts) > 1 else parts[0]
    if view.backdrop in TAILS:
        text += " " + pick(rng, TAILS[view.backdrop])
    return text[0].upper() + text[1:] + "."


def _what(view: View, speaker: Speaker, cast: Sequence[Entry], rng: np.random.Generator) -> dict[str, Any] | None:
    """What is the red thing? What is on the far left?"""
    ways = []
    for item in view.objects:
        others = [other for other in view.objects if other is not item]
        if item.colour and not any(could_be(other, item.colour) for other in others):
            ways.append((f"What is the {item.colour} thing?", item))
        for side in ("left", "right"):
            if TESTS["position"](view, item, others, Claim("position", side)) == []:
                ways.append((f"What is on the far {side}?", item))
    if not ways:
        return None
    question, item = pick(rng, ways)
    return _record("what", question, lexicon().article(item.entry.name, item.entry.name))


def _named(view: View, speaker: Speaker, rng: np.random.Generator, item: Seen) -> str | None:
    """A way to name an object without its colour."""
    ways = [statement for statement in speaker.anchors(item) if statement.kind in ("name", "size")]
    if not ways:
        return None
    statement = pick(rng, ways)
    return speaker.wording.anchor(item, statement.phrase, statement.rivals)


def _colour(view: View, speaker: Speaker, cast: Sequence[Entry], rng: np.random.Generator) -> dict[str, Any] | None:
    items = [item for item in view.objects if item.colour]
    for index in rng.permutation(len(items)):
        name = _named(view, speaker, rng, items[index])
        if name:
            verb = "are" if lexicon().is_plural(items[index].entry.name) else "is"
            return _record("colour", f"What color {verb} {name}?", str(items[index].colour))
    return None


def _count(view: View, speaker: Speaker, cast: Sequence[Entry], rng: np.random.Generator) -> dict[str, Any] | None:
    """How many of a head noun; sometimes of one that is not there."""
    entry = pick(rng, view.objects).entry if rng.random() < 0.8 else pick(rng, cast)
    sure = sum(lexicon().fits(item.entry, entry.head) for item in view.objects)
    maybe = sum(lexicon().might_fit(item.entry, entry.head) for item in view.objects)
    if sure != maybe or lexicon().is_plural(entry.head):
        return None
    return _record("count", f"How many {lexicon().plural(entry.head)} are there?", str(sure))


def _third(share: float, low: str, high: str) -> str | None:
    """`low`, "" or `high` for the outer and the middle parts of a side; None near their borders."""
    if share < 0.33:
        return low
    if share > 0.67:
        return high
    return "" if 0.42 < share < 0.58 else None


def _where(view: View, speaker: Speaker, cast: Sequence[Entry], rng: np.random.Generator) -> dict[str, Any] | None:
    for index in rng.permutation(len(view.objects)):
        item = view.objects[index]
        down = _third(item.y / view.height, "top", "bottom")
        across = _third(item.x / view.width, "left", "right")
        name = _named(view, speaker, rng, item) if down is not None and across is not None else None
        if name:
            verb = "are" if lexicon().is_plural(item.entry.name) else "is"
            return _record("where", f"Where {verb} {name}?", f"{down} {across}".strip() or "middle")
    return None
