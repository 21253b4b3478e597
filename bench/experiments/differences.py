"""What an ablation's answers say side by side: the two sides of each claim, two methods that were changed alike, and
means over trainings that differ in their seed alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from bench.evaluate.scoring import Pair, difference_records, key_of, training_records
from bench.experiments.claims import ScoreClaim, load_claims
from bench.experiments.claims import key_of as key_of_side
from bench.records import BREAKDOWN, Record, Settings, read_records, write_records
from methods.files import read_lines

SEED = "seed"  # of a variant: another training of the same
Rows = Sequence[Mapping[str, Any]]
Side = tuple[str, tuple[str, int]]  # method, and what tells the side from others of its method


class AblationScores:
    """Files of scores by what answered, and within that by the seed of the training."""

    def __init__(self) -> None:
        self.files: dict[Side, dict[int, Path]] = {}
        self.facts: dict[Side, dict[str, Any]] = {}

    def add(self, method: str, variant: Settings, tokens: int | None, path: Path, facts: Mapping[str, Any]) -> None:
        """facts: the other fields of the records of these answers; those of the first training stand for all."""
        settings = {name: value for name, value in variant.items() if name != SEED}
        side = method, key_of_side(settings, tokens)
        self.files.setdefault(side, {})[int(variant.get(SEED, 0))] = path
        self.facts.setdefault(side, {**facts, "method": method, "variant": settings, "tokens": tokens})

    def means(self, seed: int) -> list[Record]:
        """The scores of all that was trained more than once. seed: of the bootstrap."""
        return [
            record
            for side, files in self.files.items()
            if len(files) > 1
            for record in training_records([_rows(path) for path in files.values()], seed=seed, **self._of_all(side))
        ]

    def differences(self, path: Path, seed: int) -> list[Record]:
        """A record per claim whose two sides were both asked, and those between methods; those of other claims stay in
        the file."""
        known = {record.key: record for record in read_records(path)} if path.exists() else {}
        found = [record for claim in load_claims().scores for record in self._of_claim(claim, seed)]
        known |= {record.key: record for record in (*found, *self._between_methods(seed))}
        if known:
            write_records(path, known.values())
        return list(known.values())

    def _of_claim(self, claim: ScoreClaim, seed: int) -> Iterator[Record]:
        """The difference, and of a claim about a group of samples the scores of both sides in it."""
        sides = [(claim.method, side.key) for side in (claim.more, claim.less)]
        pairs = [(_within(first, claim.group), _within(second, claim.group)) for first, second in self._pairs(*sides)]
        if not pairs or not pairs[0][0]:
            return
        facts = self._of_all(sides[0]) | {"seed": seed, "group": claim.group}
        against = {"against": claim.less.fields}
        yield from (r for r in difference_records(pairs, **facts | against) if r.metric == claim.metric)
        for place, side in enumerate(sides if claim.group else ()):
            told = self._of_all(side) | {"seed": seed, "group": claim.group, "kind": BREAKDOWN}
            yield from (r for r in training_records([p[place] for p in pairs], **told) if r.metric == claim.metric)

    def _between_methods(self, seed: int) -> Iterator[Record]:
        """Each two methods that were changed alike, or trained several times as they are, asked for whole masks."""
        for first, second in combinations(self.files, 2):
            alike = first[0] != second[0] and first[1] == second[1] and not first[1][1]
            pairs = self._pairs(first, second) if alike else []
            if pairs and (first[1][0] or len(pairs) > 1) and _same_questions(pairs[0]):
                facts = self._of_all(first) | {"seed": seed, "against": {"method": second[0]}}
                yield from difference_records(pairs, **facts)

    def _pairs(self, first: Side, second: Side) -> list[Pair]:
        """The lines of both sides, for each seed that both have."""
        mine, others = self.files.get(first, {}), self.files.get(second, {})
        return [(_rows(mine[seed]), _rows(others[seed])) for seed in sorted(mine.keys() & others.keys())]

    def _of_all(self, side: Side) -> dict[str, Any]:
        """The fields of a record about all trainings of a side; weights have a digest only where they are of one."""
        return self.facts[side] | ({"checkpoint": ""} if len(self.files[side]) > 1 else {})


def _rows(path: Path) -> Rows:
    return [row for _, row in read_lines(path)]


def _within(rows: Rows, group: Settings) -> Rows:
    """The lines about samples of a group."""
    return [row for row in rows if all(row["facts"].get(name) == value for name, value in group.items())]


def _same_questions(pair: Pair) -> bool:
    return {key_of(row) for row in pair[0]} == {key_of(row) for row in pair[1]}
