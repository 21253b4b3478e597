"""Which question a line of predictions answers: every question at most once, in the dataset's own ids.

Files come from anywhere: ids that passed through a table are 3.0 or "3", and some lines name a sentence by its words
alone. All forms of an id are read as one, and what cannot be matched is refused, so that no question is answered twice
and none goes missing unseen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.data.dataset import Dataset, SampleInfo
from methods.base import UserError
from methods.files import number, quoted

ALL = -1  # the sent_id of an answer to all sentences of a reference at once
JOINT = " | "  # between the sentences of such a line's expression
UNITS = {"per_expression": True, "per_object_joined": False}  # protocol -> whether it asks for single sentences
NEEDED = ("ref_id", "image_id")
Located = tuple[str, Mapping[str, Any]]  # where a line stands ("p.jsonl, line 3"), its object


def id_key(value: Any) -> str:
    """One text for all forms of an id: 3, 3.0, "3" and "3.0" are the same."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value).strip()
    whole, point, rest = text.partition(".")
    return whole if point and whole.lstrip("-").isdigit() and not rest.strip("0") else text


def match(lines: Sequence[Located], dataset: Dataset) -> list[tuple[int, dict[str, Any]]]:
    """Lines of predictions -> (index of the sample, the line with the dataset's ref_id and image_id and with sent_id as
    a number, ALL for all sentences at once), in order.

    Raises UserError, naming the line, for a reference, an image or a sentence that the dataset lacks, a question that
    is answered twice, or answers to single sentences beside answers to all at once.
    """
    infos = [dataset.info(index) for index in range(len(dataset))]
    places = {id_key(info.ref_id): index for index, info in enumerate(infos)}
    taken: dict[tuple[int, int], str] = {}
    found = []
    for where, row in lines:
        check_ids(row, where)
        index = places.get(id_key(row["ref_id"]))
        if index is None:
            raise UserError(f"{where}: the dataset has no reference {row['ref_id']!r}; name the split it is of.")
        info = infos[index]
        _check_image(row, info, where)
        free = [position for position in info.positions if (index, position) not in taken]
        sentence = _sentence(row, info, free, where)
        if (index, sentence) in taken:
            raise UserError(
                f"{where}: reference {info.ref_id} was already predicted in {_short(taken[index, sentence])}; "
                f"keep one of them."
            )
        taken[index, sentence] = where
        found.append((index, {**row, "ref_id": info.ref_id, "image_id": info.image_id, "sent_id": sentence}))
    return _of_one_kind(found, infos, [where for where, _ in lines])


def check_ids(row: Mapping[str, Any], where: str) -> None:
    """Raise UserError for a line that does not say what it answers."""
    for name in (*NEEDED, "sent_id"):
        value = row.get(name)
        if value is None and name in NEEDED:
            raise UserError(f"{where}: no {name!r}; write the line again with it.")
        if isinstance(value, bool) or not isinstance(value, str | int | float | None) or value != value:
            raise UserError(f"{where}: {name} is {quoted(value)}; write a number or a text.")


def _check_image(row: Mapping[str, Any], info: SampleInfo, where: str) -> None:
    if info.image_id != "" and id_key(row["image_id"]) != id_key(info.image_id):
        raise UserError(
            f"{where}: image_id is {row['image_id']!r}, but reference {info.ref_id} is of image {info.image_id}; "
            f"write that one, or name the dataset that was predicted."
        )


def _sentence(row: Mapping[str, Any], info: SampleInfo, free: Sequence[int], where: str) -> int:
    """The position of the sentence that a line answers, or ALL. Of several sentences with the line's words, the first
    that is free."""
    words = row.get("expression")
    named = [position for position, text in zip(info.positions, info.expressions, strict=True)
             if isinstance(words, str) and _plain(text) == _plain(words)]  # fmt: skip
    if row.get("sent_id") is not None:
        sentence = number(row["sent_id"], f"{where}: sent_id", whole=True)
        if sentence != ALL and sentence not in info.positions:
            count = f"the sentences {', '.join(map(str, info.positions))}"
            raise UserError(
                f"{where}: sent_id is {sentence}, but reference {info.ref_id} has {count}; write the position of the "
                f"sentence among them, from 0 on (not the dataset's own sent_id), or -1 for all at once."
            )
        if sentence != ALL and named and sentence not in named:
            raise UserError(
                f"{where}: sent_id is {sentence}, but the expression is that of sentence {named[0]}; correct one."
            )
        return sentence
    if named:
        return next((position for position in named if position in free), named[0])
    if not words or _plain(words) == _plain(JOINT.join(info.expressions)):
        return ALL
    raise UserError(
        f"{where}: reference {info.ref_id} has no sentence {quoted(words)}; write its words or its sent_id."
    )


def _short(where: str) -> str:
    """ "p.jsonl, line 3" -> "line 3": a second place in the same file."""
    return where.rpartition(", ")[2]


def _plain(words: Any) -> str:
    return " ".join(str(words).casefold().split())


def _of_one_kind(
    found: list[tuple[int, dict[str, Any]]], infos: Sequence[SampleInfo], places: Sequence[str]
) -> list[tuple[int, dict[str, Any]]]:
    """The same lines, all of them to single sentences or all to whole references: for a reference of one sentence
    both are the same, for others a mixture is refused, and so is a protocol that asks otherwise."""
    kinds: dict[bool, int] = {}  # whether single sentences are answered -> the first such line
    for at, (index, row) in enumerate(found):
        single, alone = row["sent_id"] != ALL, len(infos[index].positions) == 1
        asked = UNITS.get(str(row.get("protocol")))
        if asked not in (None, single) and not alone:
            told = "names no sentence; write sent_id or expression" if asked else "names one; write sent_id -1 or none"
            raise UserError(f"{places[at]}: protocol {row['protocol']} but the line {told}.")
        if not alone or asked is not None:
            kinds.setdefault(single if asked is None else asked, at)
    if len(kinds) > 1:
        raise UserError(
            f"{places[max(kinds.values())]}: answers "
            f"{'a single sentence' if kinds[True] > kinds[False] else 'all'}, "
            f"but {_short(places[min(kinds.values())])} does not; keep answers to single sentences and to all apart."
        )
    single = next(iter(kinds), any(row["sent_id"] != ALL for _, row in found))
    for index, row in found:
        if len(infos[index].positions) == 1:
            row["sent_id"] = infos[index].positions[0] if single else ALL
    return found
