"""What `genseg score` and `genseg compare` do: files of predictions (ours or anybody's) to figures. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from bench.config import load_profile
from bench.data.cards import load_card, open_dataset
from bench.data.refer import ReferDataset
from bench.evaluate.scoring import check_scores, compare, score_predictions, to_records, unanswered
from bench.evaluate.statistics import Difference, holm
from bench.records import Record, write_records
from methods.base import UserError
from methods.files import read_lines, write_lines

COUNTS = ("failures", "n", "small_n")
USUAL = "nano"  # the profile of `make reproduce`


class Place(NamedTuple):
    """Where the truth is, and what stands for None. root: that of the profile, or of `USUAL` for the dataset that it
    builds; dataset and split: those of the file's first line; images: they are not looked at, no score needs them."""

    root: Path | None = None
    images: Path | None = None
    dataset: str | None = None
    split: str | None = None
    profile: str | None = None


FOUND = Place()


def score_file(path: Path, place: Place = FOUND, limit: int = 0) -> list[Record]:
    """Score a file of predictions, print the figures, and write FILE.scores.jsonl and FILE.records.jsonl beside it.

    Every question of the split, or of its first `limit`, that has no answer counts as an empty mask and a failure.
    """
    rows, dataset = scores_of(path, place)
    missing = unanswered(rows, dataset, limit) if dataset else []
    rows = [*rows, *missing]
    identity = {} if dataset is None else {"dataset": dataset.name, "split": dataset.split}
    records = to_records(rows, method=path.stem, seed=0, **identity)
    write_lines(path.with_suffix(".scores.jsonl"), rows)
    write_records(path.with_suffix(".records.jsonl"), records)
    table = Table("metric", "value", "95 % interval", "n", title=str(path))
    for record in records:
        table.add_row(record.metric, _cell(record.metric, record.value), _bounds(record), str(record.n))
    Console().print(table)
    if missing:
        count = f"{len(missing)} of {len(rows)} questions have no answer"
        print(f"{count}: each is an empty mask and a failure; if only the first N were asked, give limit=N.")
    return records


def compare_files(first: Path, second: Path, place: Place = FOUND) -> dict[str, Difference]:
    """Print the paired differences, first minus second, of two files of predictions or of scores."""
    rows = [scores_of(path, place)[0] for path in (first, second)]
    for name in ("dataset", "split", "protocol"):
        values = [{str(row[name]) for row in each if row.get(name)} for each in rows]
        if all(values) and values[0] != values[1]:
            told = " and ".join(", ".join(sorted(each)) for each in values)
            raise UserError(f"{first} and {second} are answers of {name} {told}; compare two files of the same.")
    found = compare(*rows)
    adjusted = holm({metric: difference.p for metric, difference in found.items() if difference.p == difference.p})
    table = Table("metric", "difference", "95 % interval", "p", "p (Holm)", title=f"{first} minus {second}")
    for metric, difference in found.items():
        if metric not in COUNTS:
            p, family = (f"{value:.4f}" for value in (difference.p, adjusted.get(metric, difference.p)))
            table.add_row(metric, _cell(metric, difference.value), _bounds(difference), p, family)
    Console().print(table)
    return found


def scores_of(path: Path, place: Place) -> tuple[Sequence[Mapping[str, Any]], ReferDataset | None]:
    """The scores of a file: read if it holds them, else computed from its masks and the dataset, which is returned
    too."""
    lines = read_lines(path)
    if not lines:
        raise UserError(f"{path}: empty; write the predictions anew with `genseg eval`.")
    number, row = lines[0]
    if "intersection" in row:
        for number, row in lines:
            check_scores(row, f"{path}, line {number}")
        return [row for _, row in lines], None
    name, split = place.dataset or row.get("dataset"), place.split or row.get("split")
    if not isinstance(name, str) or not isinstance(split, str) or not name or not split:
        raise UserError(f"{path}, line {number}: names no dataset or split; give dataset=NAME split=NAME root=FOLDER.")
    dataset = open_truth(name, split, place)
    return score_predictions(path, dataset), dataset


def open_truth(name: str, split: str, place: Place) -> ReferDataset:
    """A split without its pictures, unless their folder is given: then they must be there at the right sizes."""
    root = place.root
    if root is None and (place.profile or not place.dataset):
        data = load_profile(place.profile or USUAL).data
        if place.profile or data.dataset == name:
            root = Path(data.root) / "eval" if load_card(name).kind == "synthetic" else Path(data.root)
    if load_card(name).reader != "refer":
        raise UserError(f"{name} holds no referents with masks, so that its answers have no score here.")
    if place.images:
        return open_dataset(name, root, split, images=place.images)
    return open_dataset(name, root, split, opens_pictures=False)


def _cell(metric: str, value: float) -> str:
    return f"{value:.0f}" if metric in COUNTS else f"{100 * value:.2f} %"


def _bounds(figure: Record | Difference) -> str:
    if figure.low is None or figure.low != figure.low:
        return ""
    return f"{100 * figure.low:.2f} to {100 * figure.high:.2f}"
