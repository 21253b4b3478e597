"""Expressions that do not simply name one object: by use ("something to sit on"), for several objects, for none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.refmoji.assets import COLOURS
from bench.refmoji.claims import could_be, phrase_from_json, unambiguous
from bench.refmoji.expressions import Speaker
from bench.refmoji.layout import pick
from bench.refmoji.lexicon import Entry, lexicon
from bench.refmoji.seen import Seen, View

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
OUTER_GAP = 0.06  # of the width, between the two outermost of a kind and the next
WORDINGS = 3  # sentences for one referent, at most


def _sentence(style: str, kind: str, raw: str, noun: str, claims: list[Any], distractors: int) -> dict[str, Any]:
    return {"style": style, "kind": kind, "raw": raw, "noun": noun, "claims": claims, "distractors": distractors}


# ---------------------------------------------------------------------------------------------------------- by use
def _matches(entry: Entry, test: Mapping[str, Sequence[str]]) -> bool:
    return (
        entry.subgroup in test.get("subgroups", ())
        or entry.head in test.get("heads", ())
        or entry.id in test.get("sprites", ())
        or any(word in entry.words for word in test.get("words", ()))
    )


def _only_one(view: View, target: Seen, use: Mapping[str, Any]) -> bool:
    """Whether a use fits the target and could be said of nothing else."""
    others = (item.entry for item in view.objects if item is not target)
    return _matches(target.entry, use["fits"]) and not any(
        _matches(entry, use["fits"]) or _matches(entry, use["maybe"]) for entry in others
    )


def by_use(view: View, target: Seen, rng: np.random.Generator, count: int = WORDINGS) -> list[dict[str, Any]]:
    """Up to `count` sentences that tell the target by what it is for."""
    uses = lexicon().table["affordances"]
    ways = [(number, say) for number, use in enumerate(uses) if _only_one(view, target, use) for say in use["say"]]
    chosen = [ways[index] for index in rng.permutation(len(ways))[:count]]
    others = len(view.objects) - 1
    return [_sentence("reason", "use", say, "", [["use", number]], others) for number, say in chosen]


# --------------------------------------------------------------------------------------------------------- several
@dataclass(frozen=True)
class Group:
    """Objects that can be meant together, with the ways to say so."""

    kind: str
    numbers: tuple[int, ...]
    ways: tuple[str, ...]
    noun: str
    claims: tuple[Any, ...]


def several(view: View, speaker: Speaker, rng: np.random.Generator) -> dict[str, Any] | None:
    """A referent of two or more objects, or None where nothing can be said of just some of them."""
    groups = list(_groups(view)) + list(_pairs(view, speaker, rng))
    if not groups:
        return None
    kinds = sorted({group.kind for group in groups})
    kind = pick(rng, kinds)
    group = pick(rng, [item for item in groups if item.kind == kind])
    ways = [group.ways[index] for index in rng.permutation(len(group.ways))[:WORDINGS]]
    others = len(view.objects) - len(group.numbers)
    sentences = [_sentence("multi", kind, way, group.noun, list(group.claims), others) for way in ways]
    return {"numbers": list(group.numbers), "sentences": sentences}


def _kinds_of_things(view: View) -> Iterator[tuple[str, list[Seen], list[Seen]]]:
    """(noun, objects it fits, objects it might fit) for the nouns that fit at least two objects."""
    nouns = dict.fromkeys(word for item in view.objects for word in (item.entry.head, *item.entry.general))
    for noun in nouns:
        sure = [item for item in view.objects if lexicon().fits(item.entry, noun)]
        if len(sure) > 1 and not lexicon().is_plural(noun):
            yield noun, sure, [item for item in view.objects if lexicon().might_fit(item.entry, noun)]


def _groups(view: View) -> Iterator[Group]:
    for noun, sure, maybe in _kinds_of_things(view):
        many = lexicon().plural(noun)
        complete = len(sure) == len(maybe)
        if complete and len(sure) < len(view.objects):
            yield Group("all", _numbers(sure), _all_ways(noun, many, len(sure)), noun, ())
        for colour in COLOURS:
            of_colour = [item for item in sure if item.colour == colour]
            rest = [item for item in maybe if item not in of_colour]
            if len(of_colour) > 1 and rest and not any(could_be(item, colour) for item in rest):
                ways = _all_ways(f"{colour} {noun}", f"{colour} {many}", len(of_colour))
                yield Group("all+color", _numbers(of_colour), ways, noun, (["color", colour],))
        if complete and len(sure) > 2:
            yield from _outer(view, noun, many, sure)


def _outer(view: View, noun: str, many: str, items: Sequence[Seen]) -> Iterator[Group]:
    for side, sign in (("left", 1), ("right", -1)):
        row = sorted(items, key=lambda item: sign * item.x)
        if sign * (row[2].x - row[1].x) > OUTER_GAP * view.width:
            ways = f"the two {side}most {many}", f"the two {many} farthest {side}", f"both {many} on the far {side}"
            yield Group("outermost", _numbers(row[:2]), ways, noun, (["outermost", side],))


def _pairs(view: View, speaker: Speaker, rng: np.random.Generator) -> Iterator[Group]:
    """Two objects that can each be named, in an order by chance."""
    named = [(item, speaker.anchors(item)) for item in view.objects]
    named = [(item, ways) for item, ways in named if ways]
    if len(named) < 2:
        return
    chosen = [named[index] for index in rng.permutation(len(named))[:2]]
    said, claims = [], []
    for item, ways in chosen:
        statement = pick(rng, ways)
        said.append(speaker.wording.anchor(item, statement.phrase, statement.rivals))
        claims.append(["both", item.number, *statement.phrase.to_json()])
    ways = (f"{said[0]} and {said[1]}", f"{said[1]} and {said[0]}", f"both {said[0]} and {said[1]}")
    yield Group("pair", _numbers([item for item, _ in chosen]), ways, "", tuple(claims))


def _numbers(items: Sequence[Seen]) -> tuple[int, ...]:
    return tuple(sorted(item.number for item in items))


def _all_ways(one: str, many: str, count: int) -> tuple[str, ...]:
    if count == 2:
        return f"both {many}", f"the two {many}", f"all {many}", f"the pair of {many}"
    whole = f"all the {many}", f"all {many}", f"the {NUMBERS[count]} {many}"
    return whole if lexicon().is_mass(one.split()[-1]) else (*whole, f"every {one}", f"each {one}")


# ------------------------------------------------------------------------------------------------------------ none
def absent(view: View, cast: Sequence[Entry], rng: np.random.Generator) -> dict[str, Any] | None:
    """A referent of no object: things that fit the scene but are not in it, or not in that colour."""
    sentences: list[dict[str, Any]] = []
    for _ in range(12):
        sentence = _absent_colour(view, rng) if rng.random() < 0.5 else _absent_class(view, cast, rng)
        if sentence and all(sentence["raw"] != other["raw"] for other in sentences):
            sentences.append(sentence)
        if len(sentences) == WORDINGS:
            break
    return {"numbers": [], "sentences": sentences} if sentences else None


def _absent_colour(view: View, rng: np.random.Generator) -> dict[str, Any] | None:
    noun, colour = pick(rng, view.objects).entry.head, pick(rng, COLOURS[:8])
    alike = [item for item in view.objects if lexicon().might_fit(item.entry, noun)]
    if any(item.entry.person or could_be(item, colour) for item in alike):
        return None
    raw = pick(rng, (f"{colour} {noun}", f"the {colour} {noun}", f"the {noun} that is {colour}"))
    return _sentence("none", "absent-color", raw, noun, [["color", colour]], len(alike))


def _absent_class(view: View, cast: Sequence[Entry], rng: np.random.Generator) -> dict[str, Any] | None:
    """A thing of the subgroup of one that is there."""
    subgroup = pick(rng, view.objects).entry.subgroup
    entry = pick(rng, [entry for entry in cast if entry.subgroup == subgroup])
    words = {entry.name, entry.head}
    if any(lexicon().might_fit(item.entry, word) for item in view.objects for word in words):
        return None
    raw = pick(rng, (entry.name, lexicon().definite(entry.name, entry.name)))
    return _sentence("none", "absent-class", raw, entry.name, [], 0)


# -------------------------------------------------------------------------------------------------------- checking
def holds(view: View, numbers: Sequence[int], sentence: Mapping[str, Any]) -> bool:
    """Whether a stored sentence of any style means exactly the objects of these numbers."""
    noun, claims = sentence["noun"], sentence["claims"]
    style = sentence["style"]
    if style == "none":
        alike = [item for item in view.objects if lexicon().might_fit(item.entry, noun)]
        return not numbers and not any(not claims or could_be(item, claims[0][1]) for item in alike)
    if style == "multi":
        if sentence["kind"] == "pair":
            named = [(view.named(number), phrase_from_json(word, rest)) for _, number, word, rest in claims]
            return set(numbers) == {item.number for item, _ in named} and all(
                unambiguous(view, item, phrase) for item, phrase in named
            )
        meant = (sentence["kind"], noun, list(claims), tuple(sorted(numbers)))
        return any((group.kind, group.noun, list(group.claims), group.numbers) == meant for group in _groups(view))
    target = view.named(numbers[0])
    if style == "reason":
        return _only_one(view, target, lexicon().table["affordances"][claims[0][1]])
    return len(numbers) == 1 and unambiguous(view, target, phrase_from_json(noun, claims))
