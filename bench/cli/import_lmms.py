"""`genseg import-lmms FOLDER`: results of lmms-eval as records and a table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bench.cli.evaluate import of_checkpoint
from bench.cli.words import Commands, add_command, path_of, profile_of, settings_of
from methods.files import printable


def add_to(commands: Commands) -> None:
    text = "results of lmms-eval: into profile=, or those of one checkpoint into a folder of its own"
    add_command(commands, "import-lmms", text, run).add_argument("folder", type=path_of)


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    from rich.console import Console

    from bench.evaluate.lmms.results import find_results, keep, moved, only_checkpoint, to_records
    from bench.report.layout import print_table
    from bench.report.understanding import understanding

    values = settings_of(words)
    results = find_results(options.folder)
    if "checkpoint" in values:
        results = moved(results, path_of(values.pop("checkpoint")))
    if "profile" in values:
        profile = profile_of([f"{key}={value}" for key, value in values.items()])
    else:
        profile = of_checkpoint(values | {"checkpoint": str(only_checkpoint(results))})
    records = to_records(results, profile.name)
    path = profile.results_dir / "records" / "lmms_eval.jsonl"
    keep(path, records)
    for table in understanding(records):
        print_table(table, Console())
    print(printable(f"{path}: {len(records)} figures of {len(results)} result files"))
