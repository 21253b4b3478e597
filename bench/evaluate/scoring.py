"""From a file of predictions to scores per sample and to records. Needs no torch: it runs on any laptop.

A line of predictions: {"dataset", "split", "protocol", "ref_id", "sent_id", "image_id", "expression", "size": [H, W],
"mask": run lengths, "box": [x1, y1, x2, y2] | null, "text", "token_ids", "steps", "failure": null | str}.
`sent_id` is the sentence's position among the example's expressions, -1 for a question that joins them all (other forms
of ids, and lines that name a sentence by its words, see `answers`); a mask that is null is an empty one and a failure.
A line of scores has the same keys, the fields of `SampleScore`, and the `facts` that breakdowns group by.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from bench.data import rle
from bench.data.boxes import PIXELS, other_form
from bench.data.dataset import Dataset, SampleInfo
from bench.evaluate.answers import ALL, check_ids, id_key, match
from bench.evaluate.exchange import read_answers
from bench.evaluate.mask_groups import groups_of
from bench.evaluate.metrics import SampleScore, score, support
from bench.evaluate.metrics.registry import EVERYWHERE, REGISTRY, note_of, terms
from bench.evaluate.plan import plan
from bench.evaluate.predictions import line
from bench.evaluate.statistics import Difference, training_differences, training_intervals
from bench.records import DIFFERENCE, Record
from methods.base import Box, Example, Prediction, UserError, mask_of
from methods.files import fits, quoted

UNANSWERED = "no answer"  # the failure of a question that no line answers
RECENT = 16  # samples whose ground truth is kept
PLACE = ("dataset", "split", "protocol")
Pair = tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]  # lines of scores of two sides


def score_predictions(
    path: Path, dataset: Dataset, foreign: bool = False, box_asked: bool = False
) -> list[dict[str, Any]]:
    """Score every answer of a file or folder (any form of `exchange`) against the dataset, in order; ids are then the
    dataset's.

    foreign: the file may come from other code, so that its boxes are searched for another form than x1, y1, x2, y2 in
    pixels. box_asked: a box was, even if no line has one. Raises UserError, naming the line, for a malformed line, a
    question that the dataset lacks or that is answered twice, a mask of another size than the image, or boxes of
    another form.
    """
    lines = read_answers(path, dataset)
    box_asked = box_asked or any(row.get("box") is not None for _, row in lines)
    boxes: list[tuple[Box, Box, tuple[int, int]]] = []
    rows: list[dict[str, Any]] = []
    example_of = lru_cache(RECENT)(dataset.__getitem__)  # lines about one sample follow each other
    groups = lru_cache(RECENT)(lambda index: groups_of(example_of(index).mask))
    for (where, _), (index, row) in zip(lines, match(lines, dataset), strict=True):
        if "mask" not in row:
            raise UserError(f"{where}: no 'mask'; write its run lengths, or null if there was no answer.")
        example = example_of(index)
        framed = _in_frame(row, example, dataset.file_size(example.image_id), where)
        rows.append(_scored(framed, example, where, box_asked, dataset.info(index), groups(index)))
        if framed.get("box") is not None and example.box is not None:
            height, width = mask_of(example).shape
            boxes.append((tuple(framed["box"]), example.box, (height, width)))
    form = None
    if foreign and boxes:
        written, annotated, sizes = zip(*boxes, strict=True)
        form = other_form(written, annotated, sizes)
    if form:
        raise UserError(f"{path}: the boxes look like {form}; write them as {PIXELS}, or leave them out.")
    return rows


def unanswered(rows: Sequence[Mapping[str, Any]], dataset: Dataset, limit: int = 0) -> list[dict[str, Any]]:
    """Lines of scores for those questions of the split, or of its first `limit`, that none of the rows answers: empty
    masks and failures. The questions are sentences if the rows answer single ones, else references."""
    single = any(row["sent_id"] != ALL for row in rows)
    box_asked = any(row["box_iou_text"] is not None for row in rows)
    place = {name: rows[0].get(name, "") for name in PLACE}
    answered = {(row["ref_id"], row["sent_id"]) for row in rows}
    questions = plan(dataset, "per_expression" if single else "per_object_joined", limit)
    found = []
    for index, group in groupby(questions, key=lambda question: question.index):
        info = dataset.info(index)
        missing = [question for question in group if (info.ref_id, question.sent_id) not in answered]
        if not missing:
            continue
        example = dataset[index]
        for question in missing:
            nothing = Prediction(mask=np.zeros_like(mask_of(example)), failure=UNANSWERED)
            row = line(example, nothing, place["protocol"], question.sent_id, question.expressions) | place
            found.append(_scored(row, example, f"reference {example.ref_id}", box_asked, info, groups_of(example.mask)))
    return found


def _in_frame(
    row: Mapping[str, Any], example: Example, file_size: tuple[int, int] | None, where: str
) -> Mapping[str, Any]:
    """The line with mask and box in the frame of the ground truth, where they are at the size of an image file whose
    recorded size is another."""
    if file_size is None or example.mask is None or row["mask"] is None:
        return row
    height, width = example.mask.shape
    try:
        if tuple(int(side) for side in row["mask"]["size"]) != file_size:
            return row
        mask = rle.decode(row["mask"])
    except (ValueError, TypeError, KeyError, OverflowError):
        return row  # what is wrong with it is told where it is scored
    mask = mask[np.arange(height) * file_size[0] // height][:, np.arange(width) * file_size[1] // width]
    scale = (width / file_size[1], height / file_size[0]) * 2
    box = _box(row.get("box"), where)
    scaled = [side * factor for side, factor in zip(box, scale, strict=True)] if box else None
    return {**row, "size": [height, width], "mask": rle.encode(mask), "box": scaled}


def _scored(
    row: Mapping[str, Any], example: Example, where: str, box_asked: bool, info: SampleInfo, groups: dict[str, str]
) -> dict[str, Any]:
    """The line of scores of one line of predictions; groups: what its ground truth is like."""
    found = score_row(row, example, where, box_asked, info.category).as_dict()
    mask = rle.encode(np.zeros_like(example.mask)) if row["mask"] is None else row["mask"]
    return {**row, "mask": mask, **found, "facts": facts_of(row["sent_id"], example, info.positions) | groups}


def check_scores(row: Mapping[str, Any], where: str) -> None:
    """Raise UserError for a line of scores that lacks a field or has one of another type."""
    check_ids(row, where)
    hints = get_type_hints(SampleScore) | dict.fromkeys((name for name in PLACE if name in row), str | None)
    for name, hint in hints.items():
        if name not in row or not fits(row[name], float if hint is int else hint):
            fault = f"{name} is {quoted(row[name])}" if name in row else f"no {name!r}"
            raise UserError(f"{where}: {fault}; make the scores again with `genseg score`.")


def score_row(
    row: Mapping[str, Any], example: Example, where: str = "prediction", box_asked: bool = True,
    category: str | None = None,
) -> SampleScore:  # fmt: skip
    """Score one line of predictions against its example."""
    if example.mask is None:
        raise UserError(f"{where}: reference {row['ref_id']} has no ground-truth mask, so no score can be computed.")
    failure = str(row["failure"]) if row.get("failure") else None
    if row["mask"] is None:
        mask, failure = np.zeros_like(example.mask), failure or "no mask"
    else:
        mask = _mask(row["mask"], example.mask.shape, where)
    box = _box(row.get("box"), where)
    # an empty mask whose tokens were written is an answer, whatever else was missing (a box of nothing, say)
    answered = row["mask"] is not None and not (failure and not row.get("token_ids"))
    return score(
        mask, example.mask, example.ignore, box, example.box, failure, box_asked, example.no_target, answered, category,
        _count(row.get("corrections"), where),
    )  # fmt: skip


def _mask(code: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    try:
        height, width = (int(side) for side in code["size"])
        if (height, width) == shape:
            return rle.decode(code)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise UserError(f"{where}: the mask cannot be decoded ({error}); write the predictions again.") from None
    raise UserError(
        f"{where}: the mask is {width}x{height} but the image is {shape[1]}x{shape[0]} pixels; "
        f"write masks at the size that the annotations record, or give images= if its file has another."
    )


def _count(value: Any, where: str) -> int | None:
    if value is None or (fits(value, int) and value >= 0):
        return value
    raise UserError(f"{where}: corrections is {quoted(value)}; write how many tokens were corrected, or leave it out.")


def _box(value: Any, where: str) -> Box | None:
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 4 and all(fits(side, float) for side in value):
        return tuple(value)
    raise UserError(f"{where}: the box is {quoted(value)}; write four numbers, x1, y1, x2 and y2 in pixels, or null.")


def facts_of(sentence: int, example: Example, positions: Sequence[int]) -> dict[str, Any]:
    """The example's facts for one line: of a list along the sentences, the entry of the line's sentence."""
    if sentence not in positions:
        return dict(example.facts)
    place, count = list(positions).index(sentence), len(positions)
    return {
        name: value[place] if isinstance(value, list) and len(value) == count else value
        for name, value in example.facts.items()
    }


def to_records(rows: Sequence[Mapping[str, Any]], **identity: Any) -> list[Record]:
    """Aggregate lines of scores to one record per metric, with intervals over images.

    `identity` are fields of `Record` (method at least; seed is the bootstrap's too); dataset, split and protocol come
    from the rows unless given.
    Metrics that no sample takes part in (no small object, no box asked for) or whose denominator is 0 are left out;
    those of gRefCOCO come in where a sample has no target, those of classes where the dataset has them.
    """
    return training_records([rows], **identity)


def training_records(trainings: Sequence[Sequence[Mapping[str, Any]]], **identity: Any) -> list[Record]:
    """The same for several trainings' answers to the same samples: means, with intervals over images and trainings.
    Failures are those of all."""
    if not trainings[0]:
        raise UserError("There are no scores to aggregate; run `genseg eval` first.")
    for name in PLACE:
        identity.setdefault(name, _single(trainings[0], name))
    lines, images = _aligned(trainings) if len(trainings) > 1 else (trainings, _images(trainings[0]))
    scores = [_scores(rows) for rows in lines]
    counts = support(scores[0])
    failures = sum(sample.failure is not None for each in scores for sample in each)
    note = identity.pop("note", "")
    found = training_intervals([terms(each) for each in scores], images, identity.get("seed") or 0)
    return [
        Record(
            metric=metric,
            value=interval.value,
            low=_finite(interval.low),
            high=_finite(interval.high),
            n=counts[metric],
            failures=failures,
            note="; ".join(filter(None, (note, note_of(metric)))),
            trainings=len(trainings) if len(trainings) > 1 else None,
            **identity,
        )
        for metric, interval in found.items()
        if counts[metric] and math.isfinite(interval.value)
    ]


def difference_records(pairs: Sequence[Pair], **identity: Any) -> list[Record]:
    """Records of the differences, first minus second, of files of scores over the same questions, a pair for each
    training; of the metrics that tables of scores show. `identity` as for `to_records`, with `against`."""
    for name in PLACE:
        identity.setdefault(name, _single(pairs[0][0], name))
    identity |= {"kind": DIFFERENCE, "trainings": len(pairs) if len(pairs) > 1 else None}
    identity.pop("note", None)
    return [
        Record(metric=name, value=found.value, low=_finite(found.low), high=_finite(found.high), n=len(pairs[0][0]),
               note=f"p = {found.p:.4f}", **identity)
        for name, found in compare(*pairs, seed=identity.get("seed") or 0).items()
        if name in REGISTRY and REGISTRY[name].where == EVERYWHERE
    ]  # fmt: skip


def compare(*pairs: Pair, seed: int = 0) -> dict[str, Difference]:
    """Paired differences, first minus second, of two files of scores over the same questions; of several pairs, one for
    each training, their mean.

    Metrics that no question takes part in are left out. Raises UserError when the questions differ.
    """
    lines, images = _aligned([rows for pair in pairs for rows in pair])
    tables = [terms(_scores(rows)) for rows in lines]
    found = training_differences(list(zip(tables[::2], tables[1::2], strict=True)), images, seed)
    return {metric: difference for metric, difference in found.items() if difference.value == difference.value}


def _aligned(files: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[list[list[Mapping[str, Any]]], list[Any]]:
    """The lines of each file in one order, and the image of each; UserError if their questions differ."""
    tables = [{key_of(row): row for row in rows} for rows in files]
    other = next((table for table in tables if table.keys() != tables[0].keys()), tables[0])
    alone = tables[0].keys() ^ other.keys()
    if alone or not tables[0]:
        raise UserError(
            f"Only the same questions can be compared: {len(tables[0])} against {len(other)}, "
            f"{len(alone)} of them on one side only; predict both on one split with one protocol and limit."
        )
    order = sorted(tables[0])
    return [[table[key] for key in order] for table in tables], _images([tables[0][key] for key in order])


def _images(rows: Iterable[Mapping[str, Any]]) -> list[Any]:
    return [row["image_id"] for row in rows]


def _scores(rows: Iterable[Mapping[str, Any]]) -> list[SampleScore]:
    return [SampleScore.from_dict(dict(row)) for row in rows]


def key_of(row: Mapping[str, Any]) -> tuple[str, str]:
    """What a line of scores answers."""
    return id_key(row["ref_id"]), id_key(row.get("sent_id"))


def _single(rows: Iterable[Mapping[str, Any]], name: str) -> str:
    values = sorted({str(row.get(name, "")) for row in rows})
    if len(values) != 1:
        raise UserError(
            f"These scores mix several values of {name} ({', '.join(values)}); aggregate them one at a time."
        )
    return values[0]


def _finite(value: float) -> float | None:
    return value if value == value else None
