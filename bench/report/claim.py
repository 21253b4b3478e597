"""The papers' claims about speed (bench/experiments/claims.yaml) beside what was measured, one line for each backbone,
number of tiles and decode backend.

The fast method stands there in its fewest passes, the slow one with the most mask tokens. "N times" is reproduced where
the whole interval of the ratio lies above N, contradicted where it lies below, else not decided.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.experiments.claims import SpeedClaim, load_claims
from bench.records import Record
from bench.report.layout import Column, Table
from bench.report.speed import LANGUAGE_MODEL, Metrics, Setting, by_setting, first_of, ratio_of, shown
from methods.registry import method_spec


def claims(records: Sequence[Record]) -> list[Table]:
    """A table for each claim: the ratio of whole requests and of the language model's part, and the answer."""
    return [table for claim in load_claims().speeds for table in _table(claim, records)]


def _table(claim: SpeedClaim, records: Sequence[Record]) -> list[Table]:
    fast_title, slow_title = (method_spec(name).title for name in (claim.fast, claim.slow))
    names = ("backbone", "tiles", "backend", "weights", "device", f"{fast_title} ms", f"{slow_title} ms",
             f"{slow_title} / {fast_title}", "of the language model", claim.short)  # fmt: skip
    rows, notes = [], []
    for setting, found in by_setting(records).items():
        for place, (fast, slow) in sorted(_pairs(claim, found).items()):
            whole, part = ratio_of(slow, fast, ("total",)), ratio_of(slow, fast, LANGUAGE_MODEL)
            answer = _answer(claim, whole)
            times = f"{_total(fast).value:.1f}", f"{_total(slow).value:.1f}"
            cells = (*place, _where(setting), *times, shown(whole), shown(part), answer)
            told = {"text": claim.text, "paper": f"more than {claim.times:g} times", "ratio": shown(whole)}
            told |= {"answer": answer, "where": f"{place[0]}, {' '.join(filter(None, place[1:]))}"}
            rows.append(dict(zip(names, cells, strict=True)) | told)
            notes.append(_sentence(claim, (fast_title, slow_title), place, setting, (fast, slow), whole, answer))
    title = f"“{claim.text}”: medians of whole requests (95 % interval)"
    return [Table(title, [Column(name, name) for name in names], rows, notes)] if rows else []


def _pairs(
    claim: SpeedClaim, found: Sequence[Metrics]
) -> dict[tuple[str, ...], tuple[Metrics, Metrics]]:  # fmt: skip
    """(backbone, tiles, backend, weights) -> the two methods' figures, where both were timed."""
    places: dict[tuple[str, ...], dict[str, list[Metrics]]] = {}
    for mine in found:
        first = first_of(mine)
        if ("total", "median_ms") in mine and first.method in (claim.fast, claim.slow):
            told = str(first.variant.get("tiles", "")), first.backend, str(first.variant.get("weights", ""))
            places.setdefault((first.backbone, *told), {}).setdefault(first.method, []).append(mine)
    return {
        place: (
            min(rows[claim.fast], key=lambda mine: (mine["", "steps"].value, mine["", "tokens"].value)),
            max(rows[claim.slow], key=lambda mine: mine["", "tokens"].value),
        )
        for place, rows in places.items()
        if len(rows) == 2
    }


def _answer(claim: SpeedClaim, ratio: tuple[float, float, float]) -> str:
    return "reproduced" if ratio[1] > claim.times else "contradicted" if ratio[2] < claim.times else "not decided"


def _sentence(
    claim: SpeedClaim, titles: tuple[str, str], place: tuple[str, ...], setting: Setting,
    pair: tuple[Metrics, Metrics], ratio: tuple[float, float, float], answer: str,
) -> str:  # fmt: skip
    backbone, tiles, backend, weights = place
    how = ", ".join(filter(None, [tiles and f"tiles {tiles}", f"{backend} backend", weights and f"{weights} weights"]))
    (fast, slow), (fast_title, slow_title) = pair, titles
    return (
        f"{backbone} ({how}) on {_where(setting)}: {fast_title} ({fast['', 'steps'].value:.0f} passes) answers in "
        f"{_total(fast).value:.1f} ms, {slow_title} ({slow['', 'tokens'].value:.0f} mask tokens) in "
        f"{_total(slow).value:.1f} ms, so {fast_title} is {shown(ratio)} times as fast ({_total(slow).n} requests). "
        f"“{claim.short.capitalize()}” is {answer} here."
    )


def _where(setting: Setting) -> str:
    return ", ".join(filter(None, setting[:2]))


def _total(mine: Metrics) -> Record:
    return mine["total", "median_ms"]
