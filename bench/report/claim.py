"""The claim "ARGenSeg is over four times faster than HiMTok" beside what was measured, one line for each backbone,
number of tiles and path.

ARGenSeg stands there in its fewest steps, HiMTok with all its tokens. "Over four times" is reproduced where the whole
interval of the ratio lies above 4, contradicted where it lies below, else not decided.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.records import Record
from bench.report.layout import Column, Table
from bench.report.speed import LANGUAGE_MODEL, Setting, by_setting, path_of, ratio_of, shown, tiles_of

CLAIMED = 4.0
Row = dict[str, Record]  # metric -> record


def claims(records: Sequence[Record]) -> list[Table]:
    """One table: the ratio HiMTok / ARGenSeg of whole requests and of the language model's part, and the answer."""
    names = ("backbone", "tiles", "path", "weights", "device", "ARGenSeg ms", "HiMTok ms", "HiMTok / ARGenSeg",
             "of the language model", "over four times")  # fmt: skip
    rows, notes = [], []
    for setting, found in by_setting(records).items():
        for place, (argenseg, himtok) in sorted(_pairs(found).items()):
            whole, part = ratio_of(himtok, argenseg, ("total",)), ratio_of(himtok, argenseg, LANGUAGE_MODEL)
            answer = _answer(whole)
            line = dict(zip(names, (*place, _where(setting)), strict=False))
            line |= {"ARGenSeg ms": f"{_total(argenseg):.1f}", "HiMTok ms": f"{_total(himtok):.1f}"}
            rows.append(line | dict(zip(names[-3:], (shown(whole), shown(part), answer), strict=True)))
            notes.append(_sentence(place, setting, argenseg, himtok, whole, answer))
    title = "“ARGenSeg is over four times faster than HiMTok”: medians of whole requests (95 % interval)"
    return [Table(title, [Column(name, name) for name in names], rows, notes)] if rows else []


def _pairs(found: dict[tuple[str, str], Row]) -> dict[tuple[str, ...], tuple[Row, Row]]:
    """(backbone, tiles, path, weights) -> the two methods' figures, where both were timed."""
    places: dict[tuple[str, ...], dict[str, list[Row]]] = {}
    for (method, variant), mine in found.items():
        if "latency/total/median_ms" in mine and method in ("argenseg", "himtok"):
            weights = "int8" if "weights=int8" in variant else ""
            place = mine["latency/total/median_ms"].backbone, tiles_of(variant), path_of(variant), weights
            places.setdefault(place, {}).setdefault(method, []).append(mine)
    return {
        place: (
            min(rows["argenseg"], key=lambda mine: (mine["latency/steps"].value, mine["latency/tokens"].value)),
            max(rows["himtok"], key=lambda mine: mine["latency/tokens"].value),
        )
        for place, rows in places.items()
        if len(rows) == 2
    }


def _answer(ratio: tuple[float, float, float]) -> str:
    return "reproduced" if ratio[1] > CLAIMED else "contradicted" if ratio[2] < CLAIMED else "not decided"


def _sentence(
    place: tuple[str, ...], setting: Setting, argenseg: Row, himtok: Row, ratio: tuple[float, float, float], answer: str
) -> str:
    backbone, tiles, path, weights = place
    how = ", ".join(filter(None, [tiles.replace("=", " "), f"{path} path", weights and f"{weights} weights"]))
    steps, tokens = (f"{mine[f'latency/{key}'].value:.0f}" for mine, key in ((argenseg, "steps"), (himtok, "tokens")))
    return (
        f"{backbone} ({how}) on {_where(setting)}: ARGenSeg ({steps} passes) answers in {_total(argenseg):.1f} ms, "
        f"HiMTok ({tokens} mask tokens) in {_total(himtok):.1f} ms, so ARGenSeg is {shown(ratio)} times as fast "
        f"({himtok['latency/total/median_ms'].n} requests). “Over four times faster” is {answer} here."
    )


def _where(setting: Setting) -> str:
    return ", ".join(filter(None, setting[:2]))


def _total(mine: Row) -> float:
    return mine["latency/total/median_ms"].value
