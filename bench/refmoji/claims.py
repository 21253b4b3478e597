"""Statements about an object and when they single it out.

A claim is judged against the rivals that are still in question. It is *true* of the target only with a margin (strict
reading), and a rival is ruled out only if not even a generous reader could apply the claim to it (loose reading).
A phrase - a noun and some claims - is unambiguous if it is true of the target and leaves no rival.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.refmoji.lexicon import lexicon
from bench.refmoji.seen import Seen, View

NEIGHBOURS = {  # colours that may be taken for each other
    "red": ("pink", "orange", "brown"), "orange": ("red", "yellow", "brown"), "yellow": ("orange",),
    "pink": ("red", "purple"), "purple": ("pink", "blue"), "blue": ("purple",), "brown": ("orange", "red"),
    "black": ("gray",), "gray": ("white", "black"), "white": ("gray",), "green": (),
}  # fmt: skip
LOOSE_COLOUR = 0.17  # share from which a colour could be said of an object
LOOSE_NEIGHBOURS = 0.5  # share of neighbouring colours from which it could
COUNTING = ("order", "middle")  # kinds of claims that count the rivals
SIZE_MARGIN = 1.35  # in length
AREA_MARGIN = 1.5  # in visible area
SIDE_GAP = 0.085  # of the image's side, between the outermost object and the next
ORDER_GAP = 0.055  # between any two that are counted
DEPTH_GAP = 0.07  # of the height, between the feet
CORNER_IN, CORNER_OUT = 0.08, 0.06  # beyond the middle for the target, still within it for rivals
NEAR, NOT_NEAR, NEARER = 0.09, 0.14, 1.9  # shares of the diagonal, and the ratio of distances


@dataclass(frozen=True)
class Claim:
    """`kind` with its `value`; a relation also has the anchor's number and the phrase that names the anchor."""

    kind: str
    value: str | int = ""
    side: str = ""  # from which an order counts
    anchor: int | None = None
    phrase: Phrase | None = None

    def to_json(self) -> list[Any]:
        """[kind, value, side] or, for a relation, [kind, value, anchor number, noun, claims of the anchor]."""
        if self.phrase is not None:
            return [self.kind, self.value, self.anchor, *self.phrase.to_json()]
        return [self.kind, self.value, *([self.side] if self.side else [])]


@dataclass(frozen=True)
class Phrase:
    """A noun and what is claimed beside it, in the order in which rivals are ruled out."""

    noun: str
    claims: tuple[Claim, ...] = ()

    def to_json(self) -> list[Any]:
        """[noun, claims]."""
        return [self.noun, [claim.to_json() for claim in self.claims]]


def phrase_from_json(noun: str, claims: Sequence[Sequence[Any]]) -> Phrase:
    """The inverse of `Phrase.to_json`."""
    made = []
    for kind, value, *rest in claims:
        if kind == "relation":
            made.append(Claim(kind, value, anchor=rest[0], phrase=phrase_from_json(rest[1], rest[2])))
        else:
            made.append(Claim(kind, value, *rest))
    return Phrase(noun, tuple(made))


def rivals_of(view: View, target: Seen, noun: str) -> list[Seen]:
    """The other objects that the noun might be taken for."""
    return [item for item in view.objects if item is not target and lexicon().might_fit(item.entry, noun)]


def left_over(view: View, target: Seen, phrase: Phrase) -> list[Seen] | None:
    """The rivals that a phrase does not rule out, or None if it is not true of the target."""
    if not lexicon().fits(target.entry, phrase.noun):
        return None
    rivals: list[Seen] | None = rivals_of(view, target, phrase.noun)
    for claim in phrase.claims:
        rivals = after(view, target, phrase.noun, rivals, claim)
        if rivals is None:
            return None
    return rivals


def after(view: View, target: Seen, noun: str, rivals: list[Seen], claim: Claim) -> list[Seen] | None:
    """The rivals left after one claim, or None if it is not true of the target beyond doubt.

    What is counted must be certain to belong: "the second timer" needs rivals that are timers, not just like timers.
    """
    if claim.kind in COUNTING and not all(lexicon().fits(item.entry, noun) for item in rivals):
        return None
    return TESTS[claim.kind](view, target, rivals, claim)


def unambiguous(view: View, target: Seen, phrase: Phrase) -> bool:
    """Whether the phrase means the target and nothing else; anchors of relations are checked too."""
    for claim in phrase.claims:
        if claim.phrase is not None and not unambiguous(view, view.named(claim.anchor), claim.phrase):
            return False
    return left_over(view, target, phrase) == []


def could_be(item: Seen, colour: str) -> bool:
    """The loose reading of a colour."""
    return item.share(colour) > LOOSE_COLOUR or sum(map(item.share, NEIGHBOURS[colour])) > LOOSE_NEIGHBOURS


def bigger(one: Seen, other: Seen) -> bool:
    """Whether one object is larger than another beyond doubt."""
    return one.size > SIZE_MARGIN * other.size and one.area > AREA_MARGIN * other.area


# ------------------------------------------------------------------------------------------------------- the tests
Test = Callable[[View, Seen, list[Seen], Claim], "list[Seen] | None"]


def _colour(view: View, target: Seen, rivals: list[Seen], claim: Claim) -> list[Seen] | None:
    if target.colour != claim.value:
        return None
    return [item for item in rivals if could_be(item, target.colour)]


def _size(view: View, target: Seen, rivals: list[Seen], claim: Claim) -> list[Seen] | None:
    if claim.value == "big":
        return [] if all(bigger(target, item) for item in rivals) else None
    return [] if all(bigger(item, target) for item in rivals) else None


def _position(view: View, target: Seen, rivals: list[Seen], claim: Claim) -> list[Seen] | None:
    """The outermost of its kind on one side; up and down only where that does not mean depth."""
    if claim.value in ("top", "bottom") and view.mode == "ground":
        return None
    reach = {
        "left": lambda item: -item.x / view.width, "right": lambda item: item.x / view.width,
        "top": lambda item: -item.y / view.height, "bottom": lambda item: item.y / view.height,
    }[str(claim.value)]  # fmt: skip
    return [] if all(reach(target) > reach(item) + SIDE_GAP for item in rivals) else None


def _corner(view: View, target: Seen, rivals: list[Seen], claim: Claim) -> list[Seen] | None:
    down, across = str(claim.value).split()

    def depth(item: Seen) -> float:
        """How far the object lies beyond the image's middle towards the corner, the lesser of both directions."""
        x, y = item.x / view.width - 0.5, item.y / view.height - 0.5
        return min(x if across == "right" else -x, y if down == "bottom" else -y)

    if depth(target) <= CORNER_IN:
        return None
    return [item for item in rivals if depth(item) > -CORNER_OUT]


def _ranked(view: View, target: Seen, rivals: list[Seen]) -> list[Seen] | None:
    """Target and rivals from left to right, or None if two are too close to be counted."""
    row = sorted([target, *rivals], key=lambda item: item.x)
    apart = all(b.x - a.x > ORDER_GAP * view.width for a, b in zip(row, row[1:], strict=False))
    return row if apart and len(row) > 2 else None


def _middle(view: View, target: Seen, rivals: list[Seen], claim: Claim) -> list[Seen] | None:
    row = _ranked(view, target, rivals)
    return [] if row and len(row) == 3 and row[1] is target else None


def _order(view: View, target: Seen, rivals: list[Seen], claim: Claim) -> list[Seen] | None:
    row = _ranked(view, target, rivals)
    if row is None:
        return None
    place = row.index(target) if claim.side == "left" else len(row) - 1 - row.index(target)
    return [] if place + 1 == claim.value else None


def _depth(view: View, target: Seen, rivals: list[Seen], claim: Claim) -> list[Seen] | None:
    if view.mode != "ground":
        return None
    sign, gap = 1 if claim.value == "front" else -1, DEPTH_GAP * view.height
    return [] if all(sign * (target.base - item.base) > gap for item in rivals) else None


def _hidden(view: View, target: Seen, rivals: list[Seen], claim: Claim) -> list[Seen] | None:
    if target.visibility >= 0.72:
        return None
    return [item for item in rivals if item.visibility <= 0.93]


def _cropped(view: View, target: Seen, rivals: list[Seen], claim: Claim) -> list[Seen] | None:
    if not target.cut or target.visibility <= 0.9:
        return None
    return [item for item in rivals if item.cut]


def _tilt(view: View, target: Seen, rivals: list[Seen], claim: Claim) -> list[Seen] | None:
    low, high, upright = (140, 181, 70) if claim.value == "upside-down" else (38, 120, 16)
    if target.entry.poseless or not low < abs(target.angle) < high:
        return None
    return [item for item in rivals if abs(item.angle) >= upright]


def _relation(view: View, target: Seen, rivals: list[Seen], claim: Claim) -> list[Seen] | None:
    anchor = view.named(claim.anchor)
    if anchor is target:
        return None
    others = [item for item in rivals if item is not anchor]
    return [] if RELATIONS[str(claim.value)](view, anchor, target, others) else None


def _distance(one: Seen, other: Seen) -> float:
    """Pixels between two boxes."""
    x = abs(one.x - other.x) - (one.box[2] + other.box[2]) / 2
    y = abs(one.y - other.y) - (one.box[3] + other.box[3]) / 2
    return math.hypot(max(0.0, x), max(0.0, y))


def _near(view: View, anchor: Seen, target: Seen, others: Sequence[Seen]) -> bool:
    diagonal, own = math.hypot(view.width, view.height), _distance(target, anchor)
    far = max(NOT_NEAR * diagonal, NEARER * own)
    return own < NEAR * diagonal and all(_distance(item, anchor) > far for item in others)


def _beside(sign: int) -> Callable[[View, Seen, Seen, Sequence[Seen]], bool]:
    def holds(view: View, anchor: Seen, target: Seen, others: Sequence[Seen]) -> bool:
        level = abs(target.y - anchor.y) < 0.3 * view.height
        clear = all(sign * (item.x - anchor.x) < -0.02 * view.width for item in others)
        return level and clear and sign * (target.x - anchor.x) > 0.1 * view.width

    return holds


def _over(sign: int) -> Callable[[View, Seen, Seen, Sequence[Seen]], bool]:
    def holds(view: View, anchor: Seen, target: Seen, others: Sequence[Seen]) -> bool:
        aligned = view.mode != "ground" and abs(target.x - anchor.x) < 0.3 * view.width
        clear = all(sign * (item.y - anchor.y) < -0.02 * view.height for item in others)
        return aligned and clear and sign * (target.y - anchor.y) > 0.12 * view.height

    return holds


def _facing(sign: int) -> Callable[[View, Seen, Seen, Sequence[Seen]], bool]:
    def overlap(item: Seen, anchor: Seen) -> float:
        right = min(item.box[0] + item.box[2], anchor.box[0] + anchor.box[2])
        return right - max(item.box[0], anchor.box[0])

    def holds(view: View, anchor: Seen, target: Seen, others: Sequence[Seen]) -> bool:
        if view.mode != "ground" or overlap(target, anchor) <= 0.3 * min(target.box[2], anchor.box[2]):
            return False
        clear = all(sign * (item.base - anchor.base) < 0 or overlap(item, anchor) < 0 for item in others)
        return clear and sign * (target.base - anchor.base) > 0.05 * view.height

    return holds


RELATIONS = {
    "near": _near, "left": _beside(-1), "right": _beside(1), "above": _over(-1), "below": _over(1),
    "front": _facing(1), "behind": _facing(-1),
}  # fmt: skip
TESTS: dict[str, Test] = {
    "color": _colour, "size": _size, "position": _position, "corner": _corner, "middle": _middle, "order": _order,
    "depth": _depth, "hidden": _hidden, "cropped": _cropped, "tilt": _tilt, "relation": _relation,
}  # fmt: skip
