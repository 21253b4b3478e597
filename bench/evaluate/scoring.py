"""From a file of predictions to scores per sample and to records. Needs no torch: it runs on any laptop.

A line of predictions: {"dataset", "split", "protocol", "ref_id", "sent_id", "image_id", "expression", "size": [H, W],
"mask": run lengths, "box": [x1, y1, x2, y2] | null, "text", "token_ids", "steps", "failure": null | str}.
`sent_id` is the sentence's position among the example's expressions, -1 for a question that joins them all; a mask that
is null is an empty one and a failure.
A line of scores has the same keys, the fields of `SampleScore`, and the `facts` that breakdowns group by.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bench.evaluate import grefcoco, rle
from bench.evaluate.boundary import BF_TOLERANCE
from bench.evaluate.metrics import SampleScore, score, support
from bench.evaluate.plan import Question, plan
from bench.evaluate.predictions import line
from bench.evaluate.statistics import Difference, differences, intervals, ratio_intervals
from bench.records import Record
from bench.train.order import ImageDataset
from methods.base import Box, Example, Prediction, UserError
from methods.files import read_lines

NEEDED = ("ref_id", "image_id")
PLACE = ("dataset", "split", "protocol")
KINDS = {"int": int | float, "float": int | float, "float | None": int | float | None,
         "Box | None": list | None, "str | None": str | None}  # fmt: skip


class Examples(Protocol):
    """Any sequence of examples with ground-truth masks."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Example: ...


def score_predictions(path: Path | str, dataset: Examples) -> list[dict[str, Any]]:
    """Score every line of a predictions file against the dataset, in the file's order.

    Raises UserError, naming the line, for a malformed line, a reference that the dataset lacks, a reference predicted
    twice, or a mask of another size than the picture.
    """
    lines = read_lines(path)
    places = _places(dataset, {str(row.get("ref_id")) for _, row in lines})
    box_asked = any(row.get("box") is not None for _, row in lines)
    seen: dict[tuple[str, str], int] = {}
    rows = []
    for number, row in lines:
        where = f"{path}, line {number}"
        check_ids(row, where)
        if "mask" not in row:
            raise UserError(f"{where}: no 'mask'; write its run lengths, or null if there was no answer.")
        key = (str(row["ref_id"]), str(row.get("sent_id")))
        if key in seen:
            raise UserError(f"{where}: reference {key[0]} was already predicted in line {seen[key]}; keep one of them.")
        seen[key] = number
        example = _choose([dataset[index] for index in places.get(key[0], [])], row, where)
        _check_fits(row, example, where)
        rows.append(_scored(row, example, where, box_asked))
    return rows


def unanswered(rows: Sequence[Mapping[str, Any]], dataset: ImageDataset, limit: int = 0) -> list[dict[str, Any]]:
    """Lines of scores for those questions of the split, or of its first `limit`, that no row answers: empty masks and
    failures. The questions are sentences if the rows have that protocol or name sentences, else references."""
    named = any(isinstance(row.get("sent_id"), int) and row["sent_id"] >= 0 for row in rows)
    protocol = rows[0].get("protocol") or ("per_expression" if named else "")
    by_ref: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_ref.setdefault(str(row["ref_id"]), []).append(row)
    box_asked = any(row["box_iou_text"] is not None for row in rows)
    place = {name: rows[0].get(name, "") for name in PLACE}
    questions = plan(dataset, "per_expression" if protocol == "per_expression" else "per_object_joined", limit)
    found = []
    for index, group in groupby(questions, key=lambda question: question.index):
        example = dataset[index]
        mine = by_ref.get(str(example.ref_id), ())
        nothing = Prediction(mask=np.zeros_like(example.mask), failure="no answer")
        for question in group:
            if not any(_answers(row, question, example) for row in mine):
                row = line(example, nothing, protocol, question.sent_id, question.expressions) | place
                found.append(_scored(row, example, f"reference {example.ref_id}", box_asked))
    return found


def _answers(row: Mapping[str, Any], question: Question, example: Example) -> bool:
    """Whether a line of the question's reference is meant for this sentence; one that names none is for all."""
    sentence, words = row.get("sent_id"), row.get("expression")
    if question.sent_id < 0:
        return True
    if sentence in range(len(example.expressions)):
        return sentence == question.sent_id
    return words in question.expressions or words not in example.expressions


def _scored(row: Mapping[str, Any], example: Example, where: str, box_asked: bool) -> dict[str, Any]:
    """The line of scores of one line of predictions."""
    found = score_row(row, example, where, box_asked).as_dict()
    mask = rle.encode(np.zeros_like(example.mask)) if row["mask"] is None else row["mask"]
    return {**row, "mask": mask, **found, "facts": facts_of(row, example)}


def check_ids(row: Mapping[str, Any], where: str) -> None:
    """Raise UserError for a line that does not say what it answers."""
    for name in (*NEEDED, "sent_id"):
        value = row.get(name)
        if value is None and name in NEEDED:
            raise UserError(f"{where}: no {name!r}; write the line anew with it.")
        if not isinstance(value, str | int | float | None):
            raise UserError(f"{where}: {name} is {value!r}; write a number or a text.")


def check_scores(row: Mapping[str, Any], where: str) -> None:
    """Raise UserError for a line of scores that lacks a field or has one of another type."""
    check_ids(row, where)
    for entry in fields(SampleScore):
        if entry.name not in row or not isinstance(row[entry.name], KINDS[str(entry.type)]):
            fault = f"{entry.name} is {row[entry.name]!r}" if entry.name in row else f"no {entry.name!r}"
            raise UserError(f"{where}: {fault}; make the scores anew with `genseg score`.")


def score_row(
    row: Mapping[str, Any], example: Example, where: str = "prediction", box_asked: bool = True
) -> SampleScore:
    """Score one line of predictions against its example."""
    if example.mask is None:
        raise UserError(f"{where}: reference {row['ref_id']} has no ground-truth mask, so no score can be computed.")
    failure = str(row["failure"]) if row.get("failure") else None
    if row["mask"] is None:
        mask, failure = np.zeros_like(example.mask), failure or "no mask"
    else:
        mask = _mask(row["mask"], example.mask.shape, where)
    box = _box(row.get("box"), where)
    return score(mask, example.mask, example.ignore, box, example.box, failure, box_asked)


def _mask(code: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    try:
        height, width = (int(side) for side in code["size"])
        if (height, width) == shape:
            return rle.decode(code)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise UserError(f"{where}: the mask cannot be decoded ({error}); write the predictions anew.") from None
    raise UserError(
        f"{where}: the mask is {width}x{height} but the picture is {shape[1]}x{shape[0]} pixels; "
        f"write masks at the size of the picture."
    )


def _box(value: Any, where: str) -> Box | None:
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 4 and all(_is_number(side) for side in value):
        return tuple(value)
    raise UserError(f"{where}: the box is {value!r}; write four numbers, x1, y1, x2 and y2 in pixels, or null.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def facts_of(row: Mapping[str, Any], example: Example) -> dict[str, Any]:
    """The example's facts for one line: of a list along the sentences, the entry of the line's sentence."""
    sentence, count = row.get("sent_id"), len(example.expressions)
    if not isinstance(sentence, int) or not 0 <= sentence < count:
        return dict(example.facts)
    return {
        name: value[sentence] if isinstance(value, list) and len(value) == count else value
        for name, value in example.facts.items()
    }


def to_records(rows: Sequence[Mapping[str, Any]], **identity: Any) -> list[Record]:
    """Aggregate lines of scores to one record per metric, with intervals over pictures.

    `identity` are fields of `Record` (method at least; seed is the bootstrap's too); dataset, split and protocol come
    from the rows unless given.
    Metrics that no sample takes part in (no small object, no box asked for) or whose denominator is 0 are left out;
    those of gRefCOCO come in where a sample has no target.
    """
    if not rows:
        raise UserError("There are no scores to aggregate; run `genseg eval` first.")
    for name in PLACE:
        identity.setdefault(name, _single(rows, name))
    scores = [SampleScore.from_dict(dict(row)) for row in rows]
    counts = support(scores)
    failures = sum(sample.failure is not None for sample in scores)
    notes = {"bf_score": f"theta = {BF_TOLERANCE} of the diagonal, distance < theta"}
    note = identity.pop("note", "")
    pictures, seed = [row["image_id"] for row in rows], identity.get("seed") or 0
    found = intervals(scores, pictures, seed)
    generalised = grefcoco.terms([grefcoco.of_sample(sample) for sample in scores])
    if not all(sample.gt_area for sample in scores):
        found |= ratio_intervals(generalised, pictures, seed)
        counts |= {name: int(below.sum()) for name, (_, below) in generalised.items()}
        there = [index for index, sample in enumerate(scores) if sample.gt_area]  # nothing has no box to be found
        some = [scores[index] for index in there]
        boxes = intervals(some, [pictures[index] for index in there], seed) if some else {}
        found = {name: value for name, value in found.items() if "acc@" not in name}
        found |= {name: value for name, value in boxes.items() if "acc@" in name}
        counts |= {name: count for name, count in support(some).items() if "acc@" in name}
        notes |= dict.fromkeys(generalised, "an empty mask says that there is no target")
    return [
        Record(
            metric=metric,
            value=interval.value,
            low=_finite(interval.low),
            high=_finite(interval.high),
            n=counts[metric],
            failures=failures,
            note="; ".join(filter(None, (note, notes.get(metric)))),
            **identity,
        )
        for metric, interval in found.items()
        if counts[metric] and math.isfinite(interval.value)
    ]


def compare(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], seed: int = 0
) -> dict[str, Difference]:
    """Paired differences, first minus second, of two files of scores over the same questions.

    Metrics that no question takes part in are left out. Raises UserError when the questions differ.
    """
    tables = [{(str(row["ref_id"]), str(row.get("sent_id"))): row for row in rows} for rows in (first, second)]
    alone = tables[0].keys() ^ tables[1].keys()
    if alone or not tables[0]:
        raise UserError(
            f"Only the same questions can be compared: {len(tables[0])} against {len(tables[1])}, "
            f"{len(alone)} of them on one side only; predict both on one split with one protocol and limit."
        )
    order = sorted(tables[0])
    scores = [[SampleScore.from_dict(dict(table[key])) for key in order] for table in tables]
    found = differences(*scores, [tables[0][key]["image_id"] for key in order], seed)
    return {metric: difference for metric, difference in found.items() if difference.value == difference.value}


def _places(dataset: Examples, wanted: set[str]) -> dict[str, list[int]]:
    """Where each wanted reference stands in the dataset (indices, since thousands of masks would fill the memory)."""
    places: dict[str, list[int]] = {}
    for index in range(len(dataset)):
        reference = str(dataset[index].ref_id)
        if reference in wanted:
            places.setdefault(reference, []).append(index)
    return places


def _choose(candidates: Sequence[Example], row: Mapping[str, Any], where: str) -> Example:
    """The example of a line: of several with the same reference, the one with the line's expression."""
    if not candidates:
        raise UserError(f"{where}: the dataset has no reference {row['ref_id']!r}; name the split that was predicted.")
    matching = (example for example in candidates if row.get("expression") in example.expressions)
    return next(matching, candidates[0])


def _check_fits(row: Mapping[str, Any], example: Example, where: str) -> None:
    """Raise UserError for a line that names a sentence or a picture that its reference does not have."""
    sentence, count = row.get("sent_id"), len(example.expressions)
    if isinstance(sentence, int | float) and sentence != -1 and sentence not in range(count):
        raise UserError(
            f"{where}: sent_id is {sentence}, but reference {row['ref_id']} has {count} sentences; write the position "
            f"of the sentence among them, from 0 on (not the dataset's own sent_id), or -1 for all at once."
        )
    if example.image_id != "" and str(row["image_id"]) != str(example.image_id):
        raise UserError(
            f"{where}: image_id is {row['image_id']!r}, but reference {row['ref_id']} is of image {example.image_id}; "
            f"write that one, or name the dataset that was predicted."
        )


def _single(rows: Iterable[Mapping[str, Any]], name: str) -> str:
    values = sorted({str(row.get(name, "")) for row in rows})
    if len(values) != 1:
        raise UserError(
            f"These scores mix several values of {name} ({', '.join(values)}); aggregate them one at a time."
        )
    return values[0]


def _finite(value: float) -> float | None:
    return value if value == value else None
