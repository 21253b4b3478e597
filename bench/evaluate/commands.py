"""What `genseg score` and `genseg compare` do: files of predictions (ours or anybody's) to figures. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.data.cards import open_dataset
from bench.evaluate.scoring import compare, score_predictions, to_records
from bench.evaluate.statistics import Difference, holm
from bench.records import Record, read_lines, write_lines, write_records
from methods.base import UserError

COUNTS = ("failures", "n", "small_n")


def score_file(path: Path, root: Path | None, dataset: str | None, split: str | None) -> list[Record]:
    """Score a file of predictions, print the figures, and write FILE.scores.jsonl and FILE.records.jsonl beside it.

    dataset and split: those named in the file's first line unless given; root: where the dataset lies.
    """
    rows = scores_of(path, root, dataset, split)
    records = to_records(rows, method=path.stem, seed=0)
    write_lines(path.with_suffix(".scores.jsonl"), rows)
    write_records(path.with_suffix(".records.jsonl"), records)
    table = Table("metric", "value", "95 % interval", "n", title=str(path))
    for record in records:
        table.add_row(record.metric, _cell(record.metric, record.value), _bounds(record), str(record.n))
    Console().print(table)
    return records


def compare_files(
    first: Path, second: Path, root: Path | None, dataset: str | None, split: str | None
) -> dict[str, Difference]:
    """Print the paired differences, first minus second, of two files of predictions or of scores."""
    found = compare(*(scores_of(path, root, dataset, split) for path in (first, second)))
    adjusted = holm({metric: difference.p for metric, difference in found.items() if difference.p == difference.p})
    table = Table("metric", "difference", "95 % interval", "p", "p (Holm)", title=f"{first} minus {second}")
    for metric, difference in found.items():
        if metric not in COUNTS:
            p, family = (f"{value:.4f}" for value in (difference.p, adjusted.get(metric, difference.p)))
            table.add_row(metric, _cell(metric, difference.value), _bounds(difference), p, family)
    Console().print(table)
    return found


def scores_of(path: Path, root: Path | None, dataset: str | None, split: str | None) -> Sequence[Mapping[str, Any]]:
    """The scores of a file: read if it holds them, computed from its masks if it holds predictions."""
    lines = read_lines(path)
    if not lines:
        raise UserError(f"{path}: empty; write the predictions anew with `genseg eval`.")
    number, row = lines[0]
    if "intersection" in row:
        return [row for _, row in lines]
    dataset, split = dataset or row.get("dataset"), split or row.get("split")
    if not dataset or not split:
        raise UserError(f"{path}, line {number}: names no dataset or split; give dataset=NAME split=NAME.")
    return score_predictions(path, open_dataset(dataset, root, split))


def _cell(metric: str, value: float) -> str:
    return f"{value:.0f}" if metric in COUNTS else f"{100 * value:.2f} %"


def _bounds(figure: Record | Difference) -> str:
    if figure.low is None or figure.low != figure.low:
        return ""
    return f"{100 * figure.low:.2f} to {100 * figure.high:.2f}"
