"""Wording: many ways to say a phrase, short ones as in RefCOCO and RefCOCO+, long ones as in RefCOCOg.

A phrase is a noun between words before it and words after it. Every claim offers some of either; which ones may be
used depends on how many rivals are still in question and on where the object lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.refmoji.claims import Claim, Phrase
from bench.refmoji.layout import pick
from bench.refmoji.lexicon import lexicon
from bench.refmoji.seen import Seen, View

# RefCOCO+ forbids saying where something is. No expression of that style has one of these words.
LOCATION_WORDS = frozenset(
    """left right top bottom middle center centre front back behind above below over under underneath beneath upper
    lower first second third fourth fifth last corner side edge near nearest next beside between far farther farthest
    close closer closest leftmost rightmost topmost highest lowest foreground background beginning end inside outside
    up down""".split()
)
ORDINALS = {1: ("first", "1st"), 2: ("second", "2nd"), 3: ("third", "3rd"), 4: ("fourth", "4th"), 5: ("fifth", "5th")}
TAILS = {
    "wood": ("on the wooden surface", "on the wood"), "marble": ("on the marble counter", "on the marble"),
    "cloth": ("on the tablecloth", "on the cloth"), "meadow": ("on the grass", "in the meadow"),
    "snow": ("in the snow", "on the snow"), "desert": ("on the sand", "in the desert"),
    "street": ("on the street", "on the road"), "room": ("in the room",), "water": ("in the water",),
    "sky": ("in the sky",), "carpet": ("on the carpet",), "soil": ("on the soil", "on the ground"),
    "plaza": ("on the pavement", "on the plaza"), "court": ("on the court",), "concrete": ("on the concrete",),
    "metal": ("on the metal plate",),
}  # fmt: skip
PICTURE = ("in the picture", "in the image", "in the photo", "in this picture", "shown here", "in the scene")


@dataclass
class Words:
    """What may stand before and after the noun."""

    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)


# (words before, words after) with one rival left, and with several.
_ONE = {
    "left": Words(["left", "left", "left hand"], ["on the left", "on left", "to the left", "on the left side", "left"]),
    "right": Words(
        ["right", "right", "right hand"], ["on the right", "on right", "to the right", "on the right side", "right"]
    ),
    "top": Words(["top", "upper", "higher"], ["at the top", "on the top", "up top", "at top"]),
    "bottom": Words(["bottom", "lower"], ["at the bottom", "on the bottom", "at bottom", "down low"]),
}
_MANY = {
    "left": Words(
        ["leftmost", "far left", "left most"],
        ["on the far left", "farthest left", "furthest to the left", "all the way on the left"],
    ),
    "right": Words(
        ["rightmost", "far right", "right most"],
        ["on the far right", "farthest right", "furthest to the right", "all the way on the right"],
    ),
    "top": Words(["topmost", "top", "highest", "uppermost"], ["at the very top", "closest to the top", "highest up"]),
    "bottom": Words(["bottom", "lowest", "bottommost"], ["at the very bottom", "closest to the bottom", "lowest down"]),
}
_CORNER = {"top": ("top", "upper"), "bottom": ("bottom", "lower")}
_DEPTH = {
    "front": Words(["front", "closest", "nearest"], ["in front", "closest to us", "in the foreground",
                                                     "nearest to the camera", "up front"]),
    "back": Words(["back", "farthest", "far"], ["in the back", "farthest away", "in the background", "at the back"]),
}  # fmt: skip
_TILT = {
    "tilted": Words(["tilted", "slanted", "leaning"], ["that is tilted", "that is leaning", "lying at an angle"]),
    "upside-down": Words(["upside-down"], ["that is upside-down", "turned on its head", "standing on its head"]),
}
_RELATION = {
    "near": ("next to", "near", "beside", "close to", "by"),
    "left": ("to the left of", "left of", "on the left of", "on the left side of"),
    "right": ("to the right of", "right of", "on the right of", "on the right side of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "beneath", "lower than"),
    "front": ("in front of",),
    "behind": ("behind", "in back of"),
}
TERSE = ("left", "right", "on left", "on right", "up top", "at top", "at bottom", "down low")  # short styles only
NO_LINK = ("that", "which", "from", "closest to", "only")  # clauses that take no "that is" before them
_BIG = ("big", "large"), ("bigger", "larger"), ("biggest", "largest")
_SMALL = ("small", "little", "tiny"), ("smaller",), ("smallest", "littlest")


def words_for(view: View, target: Seen, claim: Claim, rivals: int, long: bool) -> Words:
    """What one claim offers, with `rivals` others still in question."""
    kind, value = claim.kind, str(claim.value)
    if kind == "color":
        return Words([value] * 6 + [f"{value} colored"], [f"that is {value}", f"which is {value}"] if long else [])
    if kind == "size":
        return _size(value, rivals, long)
    if kind == "position":
        words = _position(view, target, value, rivals)
        return Words(words.before, [text for text in words.after if text not in TERSE]) if long else words
    if kind == "corner":
        down, across = value.split()
        names = [f"{word} {across}" for word in _CORNER[down]]
        return Words(names, [f"in the {name}{end}" for name in names for end in ("", " corner")] + [f"at {names[0]}"])
    if kind == "middle":
        return Words(["middle", "center"], ["in the middle", "in the center", "between the other two"])
    if kind == "depth":
        return _DEPTH[value]
    if kind == "hidden":
        after = ["that is partly hidden", "that is half covered", "that you can only see part of"]
        return Words(["partly hidden", "half hidden", "partially covered", "half covered"], after)
    if kind == "cropped":
        after = ["that is cut off", "that does not fit in the picture", "only half in the picture"]
        return Words(["cut off", "cropped"], after + (["cut off by the edge"] if long else []))
    return _TILT[value]


def _size(value: str, rivals: int, long: bool) -> Words:
    plain, comparative, superlative = _BIG if value == "big" else _SMALL
    before = [*plain, *(comparative if rivals == 1 else superlative)]
    others = "the other one" if rivals == 1 else "the others"
    return Words(before, [f"that is {comparative[0]} than {others}"] if long and rivals else [])


def _position(view: View, target: Seen, value: str, rivals: int) -> Words:
    """Absolute wordings ("on the left") only if the object is on that side of the image too."""
    words = (_ONE if rivals == 1 else _MANY)[value]
    place = {"left": target.x / view.width, "right": 1 - target.x / view.width,
             "top": target.y / view.height, "bottom": 1 - target.y / view.height}[value]  # fmt: skip
    if place < 0.42:
        return words
    relative = [text for text in words.before if text not in ("far left", "far right", "left hand", "right hand")]
    return Words(relative, [text for text in words.after if text.split()[0] in ("closest", "farthest", "furthest")])


class Wording:
    """Says phrases. All choices come from one generator."""

    def __init__(self, view: View, rng: np.random.Generator) -> None:
        self.view, self.rng = view, rng

    def say(self, target: Seen, phrase: Phrase, rivals: Sequence[int], style: str) -> str:
        """The phrase in words; `rivals[k]` others are in question when its k-th claim is made."""
        long = style == "refcocog"
        before, after = self._around(target, phrase, rivals, long)
        core = " ".join([*before, phrase.noun])
        if not long:
            text = " ".join([core, *after])
            return lexicon().definite(text, phrase.noun) if self.rng.random() < 0.25 else text
        return self._long(core, phrase, before, after)

    def anchor(self, target: Seen, phrase: Phrase, rivals: Sequence[int]) -> str:
        """A definite noun phrase, plain adjectives only, for use within another phrase."""
        before = []
        for claim, count in zip(phrase.claims, rivals, strict=True):
            before.append(pick(self.rng, words_for(self.view, target, claim, count, False).before[:5]))
        return lexicon().definite(" ".join([*before, phrase.noun]), phrase.noun)

    def _around(self, target: Seen, phrase: Phrase, rivals: Sequence[int], long: bool) -> tuple[list[str], list[str]]:
        before: list[str] = []
        after: list[str] = []
        for claim, count in zip(phrase.claims, rivals, strict=True):
            if claim.kind == "order":
                before.insert(0, pick(self.rng, ORDINALS[int(claim.value)][: 1 if long else 2]))
                the = "the " if long or self.rng.random() < 0.5 else ""
                after.append(f"from {the}{claim.side}")
            elif claim.kind == "relation":
                anchor = self.view.named(claim.anchor)
                text = f"{pick(self.rng, _RELATION[str(claim.value)])} {self._anchor_text(anchor, claim)}"
                after.append(f"and {text}" if after else text)
            else:
                words = words_for(self.view, target, claim, count, long)
                odds = 0.7 if long and words.after and not after else 0.35
                if words.after and not after and (not words.before or self.rng.random() < odds):
                    after.append(pick(self.rng, words.after))
                else:
                    before.insert(0, pick(self.rng, words.before))
        return before, after

    def _anchor_text(self, anchor: Seen, claim: Claim) -> str:
        assert claim.phrase is not None
        # How many rivals an anchor's single claim faces only decides between "bigger" and "biggest".
        return self.anchor(anchor, claim.phrase, [2] * len(claim.phrase.claims))

    def _long(self, core: str, phrase: Phrase, before: Sequence[str], after: Sequence[str]) -> str:
        """A full noun phrase: an article, sometimes a relative clause, sometimes where the image was taken."""
        words = lexicon()
        related = any(claim.kind == "relation" for claim in phrase.claims)
        singular = related or not phrase.claims
        if singular and self.rng.random() < 0.45:
            text = words.article(core, phrase.noun)
        else:
            text = words.definite(core, phrase.noun)
        clause = " ".join(after)
        linkable = clause and not clause.startswith(NO_LINK)
        if linkable and self.rng.random() < 0.4:
            verb = "are" if words.is_plural(phrase.noun) else "is"
            link = f"that {verb}" if self.rng.random() < 0.6 else f"which {verb}"
            if related and self.rng.random() < 0.3:
                link = pick(self.rng, ("located", "placed", "positioned", "found"))
            text = f"{text} {link}"
        text = f"{text} {clause}".strip()
        if not related and "picture" not in text and self.rng.random() < 0.6:
            choices = TAILS.get(self.view.backdrop, ())
            text = f"{text} {pick(self.rng, choices if choices and self.rng.random() < 0.6 else PICTURE)}"
        return text
