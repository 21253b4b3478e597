"""What `genseg score` and `genseg compare` do: files of predictions (ours or anybody's) to figures. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from bench.config import load_profile
from bench.data.cards import load_card, of_label, open_dataset
from bench.data.dataset import Dataset
from bench.evaluate.answers import ALL
from bench.evaluate.dialects import Answers, box_table, dialect_of
from bench.evaluate.dialects import table as mask_table
from bench.evaluate.exchange import is_results, read_answers, write_answers
from bench.evaluate.explain import METRICS, Part, Side, explain, merged
from bench.evaluate.metrics import SampleScore, aggregate
from bench.evaluate.plain_tasks import PLAIN, plain_records, score_plain
from bench.evaluate.predictions import settings_of
from bench.evaluate.scoring import (
    UNANSWERED,
    check_scores,
    compare,
    key_of,
    score_predictions,
    to_records,
    unanswered,
)
from bench.evaluate.statistics import Difference, holm
from bench.outputs import check_lines
from bench.records import BASELINE, RECONSTRUCTION, SCORE, Record, write_records
from bench.terminal import cell
from methods.base import UserError
from methods.files import file_name, printable, read_lines, write_lines

SCORES = ("intersection", "figures")  # of which a line of scores has one
SCORED = ("masks", "boxes", "choices")  # what datasets serve whose answers have scores
COUNTS = ("failures", "n", "small_n")
USUAL = "nano"  # the profile of `make reproduce`


class Place(NamedTuple):
    """Where the ground truth is, and what stands for None. root: that of the profile, or of `USUAL` for the dataset
    that it builds; dataset and split: those of the file's first line; split_by: that of the dataset's card; images:
    they are not looked at, no score needs them. limit: questions that were asked, 0 for all."""

    root: Path | None = None
    images: Path | None = None
    dataset: str | None = None
    split: str | None = None
    split_by: str | None = None
    profile: str | None = None
    limit: int = 0


class Named(NamedTuple):
    """What a file of predictions is called in records. method: the file's name if it is empty; protocol: that of its
    lines, else the one that asks as they answer; results: a profile's folder of results that gets the records too, so
    that `genseg report` gives them a row."""

    method: str = ""
    protocol: str = ""
    results: Path | None = None


class Compared(NamedTuple):
    """Two files of scores over the same questions, and their paired differences, first minus second."""

    first: Sequence[Mapping[str, Any]]
    second: Sequence[Mapping[str, Any]]
    found: dict[str, Difference]

    def figures(self) -> list[dict[str, float | int]]:
        """All metrics of the first and of the second."""
        sides = ([SampleScore.from_dict(dict(row)) for row in rows] for rows in (self.first, self.second))
        return [aggregate(side) for side in sides]


FOUND, AS_IT_IS = Place(), Named()


def score_file(path: Path, place: Place = FOUND, named: Named = AS_IT_IS) -> list[Record]:
    """Score a file of predictions, print the metrics, and write FILE.scores.jsonl and FILE.records.jsonl beside it.

    Every question of the split, or of its first `limit`, that has no answer counts as an empty mask and a failure.
    """
    targets: tuple[Path, ...] = outputs_of(path)
    rows, dataset = scores_of(path, place)
    remarks = dataset.remarks() if dataset else []
    identity = {"dataset": dataset.name, "split": dataset.split, "note": "; ".join(remarks)} if dataset else {}
    identity |= {"protocol": protocol} if (protocol := named.protocol or _protocol_of(rows)) else {}
    aggregated = plain_records if "figures" in rows[0] else to_records
    records = aggregated(rows, method=named.method or path.name.removesuffix(".jsonl"), seed=0, **identity)
    if named.results:
        targets = (*targets, _row_file(named.results, records[0]))
    write_lines(targets[0], rows)
    for target in targets[1:]:
        write_records(target, records)
    table = Table("metric", "value", "95 % interval", "n", title=cell(path))
    for record in records:
        table.add_row(cell(record.metric), _cell(record.metric, record.value), _bounds(record), str(record.n))
    Console().print(table)
    for remark in remarks:
        print(f"Note: {printable(remark)}.")
    missing = sum(row["failure"] == UNANSWERED for row in rows)
    if missing and dataset:
        count = f"{missing} of {len(rows)} questions have no answer"
        print(f"{count}: each is an empty answer and a failure; if only the first N were asked, give limit=N.")
    return records


def _protocol_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """The protocol that asks as the rows answer, where they name none; else no other one."""
    if any(row.get("protocol") for row in rows):
        return ""
    return "per_object_joined" if all(row["sent_id"] == ALL for row in rows) else "per_expression"


def _row_file(results: Path, record: Record) -> Path:
    """Where the records of another system stand among a profile's. Raises UserError if results has no records, or if
    what is in their place is none of ours."""
    folder = results / "records"
    if not folder.is_dir():
        raise UserError(f"{printable(results)}: has no records; give the results folder of a profile, results/NAME.")
    labels = (record.method, record.dataset, record.split, record.protocol)
    target = folder / f"outside-{file_name(*labels)}.jsonl"
    check_lines(target, ["metric"])
    return target


def outputs_of(path: Path) -> tuple[Path, Path]:
    """The files beside `path` that hold its scores and records, two of their own for every name.

    Raises UserError if a file is in their place that no scoring wrote.
    """
    stem = path.name.removesuffix(".jsonl")
    mark = "." if stem != path.name else "-"  # p.jsonl -> p.scores.jsonl, p -> p-scores.jsonl
    found = []
    for kind, keys in (("scores", SCORES), ("records", ["metric"])):
        target = path.with_name(f"{stem}{mark}{kind}.jsonl")
        check_lines(target, keys, f"rename it or {printable(path.name)}")
        found.append(target)
    return found[0], found[1]


def pairs_of(first: Path, second: Path) -> list[tuple[Path, Path]]:
    """Two files as they are; of two runs (folders with `scores`), the scores of the same name in both: the answers of
    methods, not of trivial baselines or mask tokenizers. Raises UserError if there are none."""
    folders = [path / "scores" for path in (first, second)]
    if not all(folder.is_dir() for folder in folders):
        return [(first, second)]
    names = [{path.name for path in folder.glob("*.jsonl")} for folder in folders]
    shared = sorted(name for name in names[0] & names[1]
                    if not name.startswith("baseline-") and f".{RECONSTRUCTION}-" not in name)  # fmt: skip
    if not shared:
        raise UserError(f"{first} and {second} have no scores of the same name; run `genseg eval` for both.")
    return [(folders[0] / name, folders[1] / name) for name in shared]


def compare_files(first: Path, second: Path, place: Place = FOUND) -> Compared:
    """Print the paired differences, first minus second, of two files of predictions or of scores."""
    rows, others = (scores_of(path, place)[0] for path in (first, second))
    for name in ("dataset", "split", "protocol"):
        values = [{str(row[name]) for row in each if row.get(name)} for each in (rows, others)]
        if all(values) and values[0] != values[1]:
            told = " and ".join(", ".join(sorted(each)) for each in values)
            raise UserError(f"{first} and {second} are answers of {name} {told}; compare two files of the same.")
    found = compare((rows, others))
    adjusted = holm({metric: difference.p for metric, difference in found.items() if difference.p == difference.p})
    table = Table("metric", "difference", "95 % interval", "p", "p (Holm)", title=cell(f"{first} minus {second}"))
    for metric, difference in found.items():
        if metric not in COUNTS:
            p, family = (f"{value:.4f}" for value in (difference.p, adjusted.get(metric, difference.p)))
            table.add_row(cell(metric), _cell(metric, difference.value), _bounds(difference), p, family)
    Console().print(table)
    return Compared(rows, others, found)


def dialects_file(path: Path, place: Place = FOUND) -> list[dict[str, Any]]:
    """Print how every project of `dialects.yaml` would score a file of predictions."""
    rows, dataset = scores_of(path, place)
    if dataset is None:
        raise UserError(f"{path}: holds scores, whose rules cannot be changed; give the file of predictions.")
    boxes = dataset.task in PLAIN
    found = box_table(rows, dataset) if boxes else mask_table(Answers(rows, dataset))
    figures = [name for name in found[0] if name.startswith("acc@")] or ["ciou", "giou"]
    table = Table("dialect", *figures, *(() if boxes else ("cIoU, gIoU above ours because",)), title=cell(path))
    for row in found:
        title = row["title"] + ("" if row.get("same_questions", True) else " *")
        told = [] if boxes else [cell("; ".join(filter(None, (row["because"], row["note"]))))]
        table.add_row(cell(title), *(_cell(name, row[name]) for name in figures), *told)
    Console(width=None if os.environ.get("COLUMNS") else 140).print(table)
    if not all(row.get("same_questions", True) for row in found):
        print(
            "* asks about sentences in another way (each by itself, or all of an object at once) than was asked here."
        )
    return found


def explain_files(paths: Sequence[Path], places: Sequence[Place], dialects: Sequence[str]) -> list[Part]:
    """Print how many points of a difference, the last file's figures minus the first's, come from what. Files between
    them are runs on the way, which tell causes apart that act together."""
    sides = []
    for path, place, dialect in zip(paths, places, dialects, strict=True):
        rows, dataset = scores_of(path, place)
        if dataset is None or dataset.task in PLAIN:
            raise UserError(f"{path}: holds no masks; give files of predictions of masks.")
        sides.append(Side(Answers(rows, dataset), dialect_of(dialect), settings_of(path)))
    parts = merged([part for pair in pairwise(sides) for part in explain(*pair)])
    ends = [{name: side.answers.value(side.dialect.rules, name) for name in METRICS} for side in (sides[0], sides[-1])]
    table = Table("", "cIoU", "gIoU", "answers", title=cell(f"from {paths[0]} to {paths[-1]}"))
    table.add_row(cell(paths[0]), *(f"{100 * ends[0][name]:.2f}" for name in METRICS), str(len(sides[0].answers)))
    for part in (each for each in parts if any(abs(change) >= 5e-5 for change in each.change.values())):
        table.add_row(cell(part.cause), *(f"{100 * part.change[name]:+.2f}" for name in METRICS), str(part.answers))
    table.add_row(cell(paths[-1]), *(f"{100 * ends[1][name]:.2f}" for name in METRICS), str(len(sides[-1].answers)))
    Console(width=None if os.environ.get("COLUMNS") else 120).print(table)
    return parts


def scores_of(path: Path, place: Place) -> tuple[Sequence[Mapping[str, Any]], Dataset | None]:
    """The scores of a file: read if it holds them, else computed from its masks and the dataset, which is returned
    too. Questions without an answer are among them."""
    if path.is_dir() or is_results(path):
        dataset = _truth_of({}, str(path), place)
        return _scored(path, dataset, place.limit), dataset
    lines = read_lines(path)
    if not lines:
        raise UserError(f"{path}: empty; write the predictions again with `genseg eval`.")
    number, row = lines[0]
    if "intersection" in row:
        return _read_scores(lines, path), None
    if "figures" in row:
        raise UserError(f"{path}: holds scores already; give the file of predictions.")
    dataset = _truth_of(row, f"{path}, line {number}", place)
    return _scored(path, dataset, place.limit), dataset


def _truth_of(row: Mapping[str, Any], where: str, place: Place) -> Dataset:
    """The ground truth of predictions, checked: of the split that is given, else of the one that their line names."""
    name, split = place.dataset or row.get("dataset"), place.split or row.get("split")
    if not isinstance(name, str) or not isinstance(split, str) or not name or not split:
        raise UserError(f"{where}: names no dataset or split; give dataset=NAME split=NAME root=FOLDER.")
    dataset = open_truth(name, split, place)
    dataset.check()
    return dataset


def _scored(path: Path, dataset: Dataset, limit: int) -> list[dict[str, Any]]:
    """The lines of scores of a file or folder of predictions, with those of questions that it does not answer."""
    if dataset.task in PLAIN:
        return score_plain(path, dataset, limit)
    rows = score_predictions(path, dataset, foreign=True)
    return [*rows, *unanswered(rows, dataset, limit)]


def exchange_file(path: Path, target: Path, place: Place = FOUND) -> list[Path]:
    """Write the predictions of a file or folder in the form that the target's name asks for, as `write_answers` says;
    returns what was written."""
    lines = [] if path.is_dir() or is_results(path) else read_lines(path)
    first = lines[0][1] if lines else {}
    if "figures" in first:
        raise UserError(f"{path}: holds scores; give the file of predictions.")
    dataset = _truth_of(first, str(path), place)
    score_predictions(path, dataset, foreign=True)  # refuses what no score could be computed of
    return write_answers(read_answers(path, dataset), dataset, target)


def _read_scores(lines: Sequence[tuple[int, dict[str, Any]]], path: Path) -> list[Mapping[str, Any]]:
    """The lines of a file of scores, of one question each."""
    seen: dict[tuple[str, str], int] = {}
    for number, row in lines:
        check_scores(row, f"{path}, line {number}")
        first = seen.setdefault(key_of(row), number)
        if first != number:
            raise UserError(f"{path}, line {number}: reference {row['ref_id']} was scored in line {first} already.")
    return [row for _, row in lines]


def open_truth(name: str, split: str, place: Place) -> Dataset:
    """A split without its images, unless their folder is given: then they must be there at the right sizes."""
    (name, split_by), root = of_label(name), place.root
    split_by = place.split_by or split_by
    if root is None and (place.profile or not place.dataset):
        data = load_profile(place.profile or USUAL).data
        if place.profile or data.dataset == name:
            root = Path(data.root) / "eval" if load_card(name).kind == "synthetic" else Path(data.root)
        split_by = split_by or (data.split_by if data.dataset == name else "")
    if load_card(name).serves not in SCORED:
        raise UserError(f"{name} holds no masks, boxes or choices, so that its answers have no score here.")
    return open_dataset(name, root, split, bool(place.images), images=place.images, split_by=split_by)


def print_scores(records: Sequence[Record], title: str) -> None:
    """A table of the figures of models, each with its protocol; what an official script prints stands behind ours."""
    heads = ("model", "dataset", "split", "protocol", "metric", "value", "95 % interval", "n", "failures")
    table = Table(*heads, title=cell(title))
    for record in records:
        if not record.method.startswith(BASELINE) and record.kind == SCORE:
            place = (record.label, record.dataset, record.split, record.protocol, record.metric)
            figures = (_cell(record.metric, record.value), _bounds(record), str(record.n), str(record.failures))
            table.add_row(*map(cell, place), *figures)
    Console(width=None if os.environ.get("COLUMNS") else 140).print(table)


def _cell(metric: str, value: float) -> str:
    return f"{value:.0f}" if metric in COUNTS else f"{100 * value:.2f} %"


def _bounds(figure: Record | Difference) -> str:
    if figure.low is None or figure.high is None or figure.low != figure.low:
        return ""
    return f"{100 * figure.low:.2f} to {100 * figure.high:.2f}"
