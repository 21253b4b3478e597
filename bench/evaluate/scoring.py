"""From a file of predictions to scores per sample and to records. Needs no torch: it runs on any laptop.

A line of predictions: {"dataset", "split", "protocol", "ref_id", "sent_id", "image_id", "expression", "size": [H, W],
"mask": run lengths, "box": [x1, y1, x2, y2] | null, "text", "token_ids", "steps", "failure": null | str}.
`sent_id` is the sentence's position among the example's expressions, -1 for a question that joins them all.
A line of scores has the same keys, the fields of `SampleScore`, and the `facts` that breakdowns group by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from bench.evaluate import rle
from bench.evaluate.boundary import BF_TOLERANCE
from bench.evaluate.metrics import SampleScore, score, support
from bench.evaluate.statistics import Difference, differences, intervals
from bench.records import Record, read_lines
from methods.base import Example, UserError

NEEDED = ("ref_id", "image_id", "mask")


class Examples(Protocol):
    """Any sequence of examples with ground-truth masks."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Example: ...


def score_predictions(path: Path | str, dataset: Examples) -> list[dict[str, Any]]:
    """Score every line of a predictions file against the dataset, in the file's order.

    Raises UserError, naming the line, for a reference that the dataset lacks, a reference predicted twice, or a mask
    of another size than the picture.
    """
    lines = read_lines(path)
    places = _places(dataset, {str(row.get("ref_id")) for _, row in lines})
    box_asked = any(row.get("box") is not None for _, row in lines)
    seen: dict[tuple[str, str], int] = {}
    rows = []
    for number, row in lines:
        where = f"{path}, line {number}"
        absent = [name for name in NEEDED if row.get(name) is None]
        if absent:
            raise UserError(f"{where}: no {absent[0]!r}; write the predictions anew with `genseg eval`.")
        key = (str(row["ref_id"]), str(row.get("sent_id")))
        if key in seen:
            raise UserError(f"{where}: reference {key[0]} was already predicted in line {seen[key]}; keep one of them.")
        seen[key] = number
        example = _choose([dataset[index] for index in places.get(key[0], [])], row, where)
        rows.append({**row, **score_row(row, example, where, box_asked).as_dict(), "facts": facts_of(row, example)})
    return rows


def score_row(
    row: Mapping[str, Any], example: Example, where: str = "prediction", box_asked: bool = True
) -> SampleScore:
    """Score one line of predictions against its example."""
    if example.mask is None:
        raise UserError(f"{where}: reference {row['ref_id']} has no ground-truth mask, so no score can be computed.")
    try:
        mask = rle.decode(row["mask"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{where}: the mask cannot be decoded ({error}); write the predictions anew.") from None
    if mask.shape != example.mask.shape:
        raise UserError(
            f"{where}: the mask is {mask.shape[1]}x{mask.shape[0]} but the picture is "
            f"{example.mask.shape[1]}x{example.mask.shape[0]} pixels; write masks at the size of the picture."
        )
    box = tuple(row["box"]) if row.get("box") else None
    return score(mask, example.mask, example.ignore, box, example.box, row.get("failure"), box_asked)


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
    Metrics that no sample takes part in (no small object, no box asked for) are left out.
    """
    if not rows:
        raise UserError("There are no scores to aggregate; run `genseg eval` first.")
    for name in ("dataset", "split", "protocol"):
        identity.setdefault(name, _single(rows, name))
    scores = [SampleScore.from_dict(dict(row)) for row in rows]
    counts = support(scores)
    failures = sum(sample.failure is not None for sample in scores)
    notes = {"bf_score": f"theta = {BF_TOLERANCE} of the diagonal, distance < theta"}
    note = identity.pop("note", "")
    found = intervals(scores, [row["image_id"] for row in rows], identity.get("seed") or 0)
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
        if counts[metric]
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


def _single(rows: Iterable[Mapping[str, Any]], name: str) -> str:
    values = sorted({str(row.get(name, "")) for row in rows})
    if len(values) != 1:
        raise UserError(
            f"These scores mix several values of {name} ({', '.join(values)}); aggregate them one at a time."
        )
    return values[0]


def _finite(value: float) -> float | None:
    return value if value == value else None
