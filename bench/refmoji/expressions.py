"""Referring expressions for one image: what can be said of an object, and which of it is said.

First all unambiguous phrases for a target are collected by kind; then a kind is drawn by the habits of the style, a
phrase of that kind, and a wording.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.refmoji.claims import RELATIONS, Claim, Phrase, after, left_over, rivals_of
from bench.refmoji.layout import pick
from bench.refmoji.levels import STYLES, Level
from bench.refmoji.phrases import LOCATION_WORDS, Wording
from bench.refmoji.seen import Seen, View

# How often a style uses a kind, if it can. Kinds that a style lacks here are never used by it.
HABITS = {
    "refcoco": {"name": 0.6, "color": 4.0, "size": 1.5, "position": 2.0, "corner": 1.2, "middle": 2.0, "order": 2.0,
                "depth": 1.2, "cropped": 0.3, "tilt": 0.8, "color+position": 2.0, "color+size": 1.0},
    "refcoco+": {"name": 0.7, "color": 4.0, "size": 1.5, "hidden": 1.0, "cropped": 0.4, "tilt": 1.0,
                 "color+size": 2.5, "color+hidden": 2.0},
    "refcocog": {"name": 0.5, "color": 3.0, "size": 0.8, "position": 0.7, "middle": 0.8, "order": 1.2, "depth": 0.6,
                 "hidden": 0.8, "relation": 2.2, "relation+relation": 2.5, "color+position": 1.0, "color+size": 1.0},
}  # fmt: skip
PLAIN = ("name", "color", "size")  # the kinds that may name an anchor
NEEDLESS = 0.15  # how much rarer relations are where the bare noun would do
DECORATED = 0.3  # share of names and relations that mention the colour although they need not
SMALL = 0.04  # share of the image below which a referent counts as small
LEAST_VISIBLE = 0.35  # share of an object that must be seen for it to be asked for
ANCHOR_AREA = 0.004  # share of the image below which nothing serves as an anchor


@dataclass(frozen=True)
class Statement:
    """A phrase that singles out its target. `rivals[k]` others are in question before its k-th claim."""

    kind: str
    phrase: Phrase
    rivals: tuple[int, ...]
    distractors: int  # other objects that the bare noun might mean


class Speaker:
    """Says things about one image."""

    def __init__(self, view: View, level: Level, rng: np.random.Generator) -> None:
        self.view, self.level, self.rng = view, level, rng
        self.wording = Wording(view, rng)
        self._anchors: dict[int, list[Statement]] = {}

    def sentence(self, target: Seen, style: str) -> dict[str, Any] | None:
        """One expression of the style, as a record {style, kind, raw, noun, claims, distractors}, or None."""
        groups: dict[str, list[Statement]] = {}
        for statement in self.statements(target, style):
            groups.setdefault(statement.kind, []).append(statement)
        if not groups:
            return None
        kinds = sorted(groups)
        unique = "name" in groups
        odds = np.array([HABITS[style][kind] * (NEEDLESS if unique and kind != "name" else 1) for kind in kinds])
        kind = kinds[int(self.rng.choice(len(kinds), p=odds / odds.sum()))]
        statement = self._decorated(target, pick(self.rng, groups[kind]))
        raw = self.wording.say(target, statement.phrase, statement.rivals, style)
        noun, claims = statement.phrase.to_json()
        return {"style": style, "kind": statement.kind, "raw": raw, "noun": noun, "claims": claims,
                "distractors": statement.distractors}  # fmt: skip

    def statements(self, target: Seen, style: str) -> list[Statement]:
        """Every phrase of the style that means the target and nothing else."""
        kinds = self.level.kinds & HABITS[style].keys()
        found: list[Statement] = []
        for noun in self.nouns(target, style):
            rivals = rivals_of(self.view, target, noun)
            if not rivals:
                found.append(Statement("name", Phrase(noun), (), 0))
            else:
                found += self._told_apart(target, noun, rivals, kinds)
            if "relation" in kinds:
                found += self._related(target, noun, rivals, kinds)
        return found

    def nouns(self, target: Seen, style: str) -> list[str]:
        """The words used for an object: its name and head noun, and more general ones where the level has them."""
        entry = target.entry
        words = list(dict.fromkeys((entry.name, entry.head)))
        if self.level.general_words:
            words = list(entry.words)[: 2 if style == "refcocog" else 4]
        if style == "refcoco+":
            words = [word for word in words if not LOCATION_WORDS & set(word.split())]
        return words

    # ------------------------------------------------------------------------------------------- collecting phrases
    def _told_apart(self, target: Seen, noun: str, rivals: list[Seen], kinds: Iterable[str]) -> list[Statement]:
        """Phrases with one claim, or a colour and one claim, that rule out all rivals."""
        allowed = set(kinds)
        found = []
        claims = list(self._claims(target, allowed, len(rivals)))
        for claim in claims:
            if claim.kind in allowed and after(self.view, target, noun, rivals, claim) == []:
                found.append(Statement(claim.kind, Phrase(noun, (claim,)), (len(rivals),), len(rivals)))
        if target.colour is None:
            return found
        colour = Claim("color", target.colour)
        alike = after(self.view, target, noun, rivals, colour) or []
        if not 0 < len(alike) < len(rivals):
            return found
        for claim in claims:
            kind = f"color+{claim.kind}"
            if kind in allowed and after(self.view, target, noun, alike, claim) == []:
                counts = (len(rivals), len(alike))
                found.append(Statement(kind, Phrase(noun, (colour, claim)), counts, len(rivals)))
        return found

    def _claims(self, target: Seen, kinds: set[str], rivals: int) -> Iterable[Claim]:
        """Claims worth testing; which of them are true is for the tests to say."""
        if target.colour is not None:
            yield Claim("color", target.colour)
        yield from (Claim("size", value) for value in ("big", "small"))
        if "position" in kinds:
            yield from (Claim("position", value) for value in ("left", "right", "top", "bottom"))
        if "corner" in kinds:
            for down in ("top", "bottom"):
                yield from (Claim("corner", f"{down} {across}") for across in ("left", "right"))
        if "middle" in kinds and rivals == 2:
            yield Claim("middle")
        if "order" in kinds and rivals >= 2:
            last = min(5, (rivals + 1) // 2 + 1)
            yield from (Claim("order", place, side) for side in ("left", "right") for place in range(2, last + 1))
        if "depth" in kinds:
            yield from (Claim("depth", value) for value in ("front", "back"))
        if "hidden" in kinds:
            yield Claim("hidden")
        if "cropped" in kinds:
            yield Claim("cropped")
        if "tilt" in kinds:
            yield from (Claim("tilt", value) for value in ("tilted", "upside-down"))

    def _related(self, target: Seen, noun: str, rivals: list[Seen], kinds: Iterable[str]) -> list[Statement]:
        """Phrases that tell the target by where it is to another object, or to two others."""
        count = len(rivals)
        single: list[Claim] = []
        for anchor in self.view.objects:
            if anchor is target or anchor.area < ANCHOR_AREA * self.view.area:
                continue
            named = self.anchors(anchor)
            if not named or not RELATIONS.keys() & set(self.level.relations):
                continue
            for value in self.level.relations:
                claim = Claim("relation", value, anchor=anchor.number, phrase=pick(self.rng, named).phrase)
                if after(self.view, target, noun, rivals, claim) == []:
                    single.append(claim)
        found = [Statement("relation", Phrase(noun, (claim,)), (count,), count) for claim in single]
        if "relation+relation" in set(kinds):
            for first, second in zip(single, single[1:], strict=False):
                if first.anchor != second.anchor and first.value != second.value:
                    # Each of the two is enough, so the second meets no rival.
                    found.append(Statement("relation+relation", Phrase(noun, (first, second)), (count, 0), count))
        return found

    def anchors(self, item: Seen) -> list[Statement]:
        """Phrases without location words that identify an object, for use within other phrases."""
        if item.number not in self._anchors:
            found = []
            for noun in (word for word in dict.fromkeys((item.entry.name, item.entry.head))):
                rivals = rivals_of(self.view, item, noun)
                if not rivals:
                    found.append(Statement("name", Phrase(noun), (), 0))
                else:
                    found += self._told_apart(item, noun, rivals, PLAIN)
            self._anchors[item.number] = found
        return self._anchors[item.number]

    def _decorated(self, target: Seen, statement: Statement) -> Statement:
        """Sometimes the colour is mentioned although nothing depends on it."""
        if statement.kind not in ("name", "relation") or target.colour is None or self.rng.random() >= DECORATED:
            return statement
        phrase = Phrase(statement.phrase.noun, (Claim("color", target.colour), *statement.phrase.claims))
        if left_over(self.view, target, phrase) != []:
            return statement
        return Statement(statement.kind, phrase, (statement.distractors, *statement.rivals), statement.distractors)


# ----------------------------------------------------------------------------------------------- choosing referents
def candidates(view: View, level: Level) -> list[Seen]:
    """Objects that are large enough and visible enough to be asked for."""
    least = level.smallest * view.area
    return [item for item in view.objects if item.area >= least and item.visibility > LEAST_VISIBLE]


def choose_targets(view: View, pool: Sequence[Seen], level: Level, count: int, rng: np.random.Generator) -> list[Seen]:
    """Up to `count` targets; small ones only as often as the level wants them, confusable ones preferred."""
    chosen: list[Seen] = []
    large = sum(item.area >= SMALL * view.area for item in pool)
    for _ in range(min(count, max(1, round(large / (1 - level.small_odds))))):
        small = rng.random() < level.small_odds
        left = [item for item in pool if item not in chosen and (item.area < SMALL * view.area) == small]
        if left:
            odds = np.array([2.0 if _has_twin(view, item) else 1.0 for item in left])
            chosen.append(left[int(rng.choice(len(left), p=odds / odds.sum()))])
    return chosen


def _has_twin(view: View, item: Seen) -> bool:
    return any(other is not item and other.entry.head == item.entry.head for other in view.objects)


def referents(speaker: Speaker, pool: Sequence[Seen], count: int) -> list[dict[str, Any]]:
    """Up to `count` referents with about three different sentences each: {"numbers": [object], "sentences": [...]}."""
    made = []
    for target in choose_targets(speaker.view, pool, speaker.level, count, speaker.rng):
        sentences: list[dict[str, Any]] = []
        for style in (*STYLES, *STYLES):
            if len(sentences) == 3:
                break
            sentence = speaker.sentence(target, style)
            if sentence and all(sentence["raw"] != other["raw"] for other in sentences):
                sentences.append(sentence)
        if sentences:
            made.append({"numbers": [target.number], "sentences": sentences})
    return made
