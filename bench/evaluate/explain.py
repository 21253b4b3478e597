"""Why two scores differ: a difference of two files of predictions, divided among its causes. Needs no torch.

One thing after the other is changed from the first file's to the second's, so that the parts add up to the difference:

1. the dialect's rules, one at a time (bench/evaluate/dialects.py);
2. questions that only the first file's split asks, and the ground truth of those that both ask;
3. answers that only one of the files lacks;
4. masks that the same tokens were decoded to;
5. all other answers, under the name of what the files' settings say is different;
6. how often an object counts, where one file answers each sentence and the other all of an object's at once;
7. questions that only the second file's split asks.

What a part is worth depends on the order where causes act together; the order is the same for everybody. Where several
settings differ, files of the two ends cannot tell them apart: a run between them, given as a third file, can.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.evaluate.answers import ALL, id_key
from bench.evaluate.dialects import Answers, Dialect, figures, overlap, truth_of, words_of
from methods.base import UserError

METRICS = ("ciou", "giou")
# cause -> the settings in a file's stamp that belong to it; "told." stands before those of the protocol's rule
CAUSES = {
    "model": ("method", "weights"),
    "sentences": ("told.sentences",),
    "prompt": ("told.question", "told.question_of", "told.sentence", "told.repeat", "told.prompt", "asked"),
    "image": ("told.image", "told.tiles", "told.letterbox"),
    "decoding": ("rule", "temperature", "tokens", "told.rule", "told.constrained", "told.most_tokens"),
    "mask conversion": ("told.mask_resize", "refiner"),
    "precision": ("precision",),
}
SENTENCES = "sentences: how often an object counts"
FAILURES, CONVERSION = "failures", "mask conversion"
Key = tuple[str, ...]
Place = tuple[str, int]  # "first" or "second", a line's place


@dataclass(frozen=True)
class Side:
    """One file: its answers, the dialect that scores it, and what it was made with (predictions.settings_of)."""

    answers: Answers
    dialect: Dialect
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """A cause, what it changes from the first file to the second (fractions, by metric), and how many answers."""

    cause: str
    change: dict[str, float]
    answers: int


def explain(first: Side, second: Side) -> list[Part]:
    """The parts of the difference second minus first; parts that change nothing are left out.

    Raises UserError if the files have no question in common, or if masks of one have another size in the other's data.
    """
    state, parts = _Chain(first, second), []
    before = state.values()
    for cause, count in state.steps():
        after = state.values()
        change = {metric: after[metric] - before[metric] for metric in METRICS}
        if any(abs(value) > 1e-12 for value in change.values()):
            parts.append(Part(cause, change, count))
        before = after
    return merged(parts)


def merged(parts: Sequence[Part]) -> list[Part]:
    """Parts of the same cause as one."""
    found: dict[str, Part] = {}
    for part in parts:
        old = found.get(part.cause)
        change = {metric: part.change[metric] + (old.change[metric] if old else 0.0) for metric in METRICS}
        found[part.cause] = Part(part.cause, change, part.answers + (old.answers if old else 0))
    return list(found.values())


class _Chain:
    """What is scored on the way: slots, each an answer of either file against the ground truth of either."""

    def __init__(self, first: Side, second: Side):
        self.first, self.second = first, second
        self.rules = first.dialect.rules
        self.sides = {"first": first.answers, "second": second.answers}
        self.pairs = _pairs(first.answers, second.answers)
        if not self.pairs:
            raise UserError("The files answer no question in common; give answers to the same split, or name its data.")
        self.partners = {"first": dict(self.pairs), "second": {b: a for a, b in self.pairs}}
        self.slots: list[tuple[Place, str]] = [(("first", place), "first") for place in range(len(first.answers))]
        self._cache: dict[tuple[Place, str, str, str], tuple[int, int]] = {}

    def values(self) -> dict[str, float]:
        counts = [self._count(answer, truth) for answer, truth in self.slots]
        inter, union = np.array(counts, np.int64).reshape(-1, 2).T
        missing = np.array([self.sides[side].missing[place] for (side, place), _ in self.slots], bool)
        return figures(inter, union, missing, self.rules)

    def _count(self, answer: Place, truth: str) -> tuple[int, int]:
        side, place = answer
        key = (answer, truth, self.rules.ignored, self.rules.raster)
        if key not in self._cache:
            row, other = self.sides[side].rows[place], self.sides[truth]
            asked = place if side == truth else self.partners[side][place]  # the line of `truth` that asks the same
            index = other.place(other.rows[asked])
            mask, ignore = truth_of(other.dataset, index, self.rules.raster)
            if tuple(row["mask"]["size"]) != mask.shape:
                own, theirs = ("x".join(map(str, size[::-1])) for size in (row["mask"]["size"], mask.shape))
                raise UserError(
                    f"The mask of reference {row['ref_id']} has {own} pixels, but {theirs} in the other file's data; "
                    "score both against one dataset."
                )
            self._cache[key] = overlap(row["mask"], mask, ignore, self.rules.ignored)
        return self._cache[key]

    def steps(self) -> Iterator[tuple[str, int]]:
        """Change one thing after the other; after each yield its cause and how many answers it concerns."""
        for rule, rules in self.rules.steps(self.second.dialect.rules):
            self.rules = rules
            yield f"dialect: {words_of(rule, rules)}", len(self.slots)
        shared, counted = (sorted(set(places)) for places in zip(*self.pairs, strict=True))
        alone = len(self.slots) - len(shared)
        self.slots = [(("first", a), "first") for a in shared]
        yield "data: questions of the first file alone", alone
        self.slots = [(("first", a), "first") for a, _ in self.pairs]
        yield SENTENCES, len(self.pairs)
        self.slots = [(("first", a), "second") for a, _ in self.pairs]
        yield "data: ground truth", len(self.slots)
        yield from self._answers()
        self.slots = [(("second", b), "second") for b in counted]
        yield SENTENCES, len(self.pairs)
        self.slots = [(("second", b), "second") for b in range(len(self.second.answers))]
        yield "data: questions of the second file alone", len(self.slots) - len(counted)

    def _answers(self) -> Iterator[tuple[str, int]]:
        """Replace the first file's answers by the second's, those of one cause after those of another."""
        causes = [self._cause(a, b) for a, b in self.pairs]
        for cause in dict.fromkeys([FAILURES, CONVERSION, *causes]):
            chosen = [at for at, each in enumerate(causes) if each == cause]
            for at in chosen:
                self.slots[at] = (("second", self.pairs[at][1]), "second")
            if chosen:
                yield cause, len(chosen)

    def _cause(self, a: int, b: int) -> str:
        one, other = self.first.answers, self.second.answers
        if one.missing[a] != other.missing[b]:
            return FAILURES
        tokens = one.rows[a].get("token_ids")
        if tokens and tokens == other.rows[b].get("token_ids"):
            return CONVERSION
        return difference(self.first, self.second)


def difference(first: Side, second: Side) -> str:
    """What the settings of two files say is different, in words."""
    found = [cause for cause, names in CAUSES.items() if any(
        _setting(first.settings, name) != _setting(second.settings, name) for name in names)]  # fmt: skip
    if not first.settings or not second.settings:
        units = [all(row["sent_id"] == ALL for row in side.answers.rows) for side in (first, second)]
        found = ["sentences"] * (units[0] != units[1]) + ["model, prompt or decoding (the files do not say which)"]
    if not found:
        return "answers (the same settings)"
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} and {found[-1]}, together"


def _setting(settings: Mapping[str, Any], name: str) -> Any:
    """A setting of a stamp; what stands for its default is none."""
    group, _, key = name.rpartition(".")
    return ((settings.get(group) or {}) if group else settings).get(key)


def _pairs(first: Answers, second: Answers) -> list[tuple[int, int]]:
    """Lines of both files that ask the same: by reference and sentence where the files are of one dataset, else by
    image and words; an answer to all sentences stands beside those to each of them."""
    same = first.dataset.name == second.dataset.name
    for keys in (_ids, _words) if same else (_words, _ids):
        names = {key: place for place, row in enumerate(second.rows) for key in keys(row, second)}
        found = {}
        for place, row in enumerate(first.rows):
            partner = next((names[key] for key in keys(row, first) if key in names), None)
            if partner is not None:
                found[place] = partner
        if found:
            extra = {b for _, b in found.items()}
            back = {key: place for place, row in enumerate(first.rows) for key in keys(row, first)}
            more = [
                (next((back[key] for key in keys(row, second) if key in back), None), place)
                for place, row in enumerate(second.rows)
                if place not in extra
            ]
            return sorted([*found.items(), *((a, b) for a, b in more if a is not None)])
    return []


def _ids(row: Mapping[str, Any], answers: Answers) -> Iterator[Key]:
    """The questions that a line answers, its own first."""
    yield id_key(row["ref_id"]), str(row["sent_id"])
    if row["sent_id"] == ALL:
        yield from ((id_key(row["ref_id"]), str(at)) for at in answers.dataset.info(answers.place(row)).positions)


def _words(row: Mapping[str, Any], answers: Answers) -> Iterator[Key]:
    info = answers.dataset.info(answers.place(row))
    texts = dict(zip(info.positions, info.expressions, strict=True))
    image = id_key(row["image_id"])
    if row["sent_id"] == ALL:
        yield image, *(_plain(text) for text in info.expressions)
        yield from ((image, _plain(text)) for text in info.expressions)
    else:
        yield image, _plain(texts[row["sent_id"]])


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
