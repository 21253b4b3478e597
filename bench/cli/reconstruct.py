"""`genseg reconstruct`: what a mask tokenizer makes of masks, and of shapes that nobody trains on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.cli.tokens import chosen_tokenizer
from bench.cli.words import Commands, add_command, none_left, path_of, settings_of, whole_of
from methods.files import printable, read_lines, whole_folder

WORDS = "checkpoint= method= profile= dataset= root= images= split= ask= limit= shapes="


def add_to(commands: Commands) -> None:
    command = add_command(commands, "reconstruct", f"how well a mask tokenizer writes masks: {WORDS}", run)
    command.add_argument("out", type=path_of, help="a new folder for the page, tables and records")


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    from bench.outputs import check_new

    values = settings_of(words)
    check_new(options.out)
    method, path = chosen_tokenizer(values)
    limit, shapes = whole_of(values, "limit", 0, 0, 10**9), whole_of(values, "shapes", 50, 1, 10_000)
    dataset = _dataset(values)
    none_left(values)
    _measure(method, path, dataset, limit, shapes, options.out)


def _measure(method: str, path: Path, dataset: Any, limit: int, shapes: int, out: Path) -> None:
    """Measure the mask tokenizer at `path` on the masks of a dataset, if one is given, and on `shapes` masks of each
    kind of the shape test; write page, tables and records, and print the tables."""
    from rich.console import Console

    from bench.evaluate.mask_tokens import load_mask_tokenizer
    from bench.evaluate.reconstruction import reconstruct, reconstruction_records, shape_ious, shape_records
    from bench.evaluate.shapes import shape_test
    from bench.records import write_records
    from bench.report.layout import print_table
    from bench.report.reconstruction_page import tables, write
    from bench.runtime import device_of, digest_of_files, origin

    mask_tokenizer = load_mask_tokenizer(method, path)
    facts = origin(method, digest_of_files(path), "float32", device_of())
    records = shape_records(shape_ious(mask_tokenizer, shape_test(shapes)), **facts)
    worst: Any = []
    if dataset is not None:
        found = reconstruct(mask_tokenizer, dataset, limit)
        where = {"dataset": dataset.name, "split": dataset.split}
        records += reconstruction_records(found, mask_tokenizer, **where, **facts)
        worst = found.worst
    with whole_folder(out) as draft:
        write_records(draft / "records.jsonl", records)
        write(draft, f"Mask tokenizer of {method}, {path}", records, worst, _validation(path))
    for table in tables(records).values():
        print_table(table, Console())
    print(printable(f"{out}: index.html, tables and records.jsonl"))


def _validation(path: Path) -> list[Any]:
    """What the training that made the weights measured on its way; nothing if they lie elsewhere."""
    log = path.parent / "validation.jsonl"
    rows = [row for _, row in read_lines(log)] if log.is_file() else []
    return [row for row in rows if {"samples", "giou", "shapes/all"} <= row.keys()]


def _dataset(values: dict[str, str]) -> Any:
    """The dataset that the words name, None if they name none; its images need not be there."""
    from bench.data.cards import open_dataset

    name, root = values.pop("dataset", ""), values.pop("root", "")
    where: dict[str, str | Path] = {key: values.pop(key) for key in ("images", "split_by", "ask") if key in values}
    split = values.pop("split", None)
    if not name and not root:
        return None
    return open_dataset(name or "refmoji", path_of(root) if root else None, split, with_images=False, **where)
