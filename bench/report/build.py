"""Write every table and figure that the records of a profile allow: `genseg report`.

results/<profile>/tables/   accuracy, reconstruction: no timing in them, the same bytes for the same predictions
                            budget: where the points are lost; breakdown: by the facts of the question
                            ablation, perception: the methods with one thing changed, and asked for more
                            understanding: what lmms-eval measured
                            findings: what that says of the papers' claims; claims: these and those about speed
                            benchmarks: the papers' tables, one for each task, with the papers' own rows
                            main, latency, orders, speedup, roofline, claim, scaling, rounding: with timings
                            published: what the papers print; provenance: where the figures come from
                            training_cost: of the logs
results/<profile>/figures/  see figures/views.py; photographs: examples, prefixes
results/<profile>/index.html  all of it on one page
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from bench.assets import asset
from bench.data.dataset import Dataset
from bench.outputs import Outputs
from bench.records import BASELINE, Record, read_records
from bench.report import (
    benchmarks,
    claim,
    findings,
    latex,
    layout,
    page,
    qualitative_grid,
    scaling,
    speed,
    summary,
    tables,
)
from bench.report.budget import budgets
from bench.report.figures.views import figures_of
from bench.report.provenance import provenance
from bench.report.published import load_published, load_selection
from bench.report.training_logs import Training, training_cost
from bench.report.understanding import understanding
from methods.base import UserError
from methods.files import file_name, printable, read_lines

LOG_WIDTH = 200  # columns when the output goes to a file or a pipe, where nothing wraps
ORIGIN = "\nData, weights, device, precision, seeds, commands and dates: [provenance.md](provenance.md).\n"
OpenDataset = Callable[[str, str], Dataset]  # (dataset, split) -> its examples


def build(
    profile_dir: Path, runs_dir: Path | None = None, open_dataset: OpenDataset | None = None,
    training: Sequence[Training] = (), photographs: Mapping[str, bytes] | None = None,
) -> list[Path]:  # fmt: skip
    """Write the views of `profile_dir`/records and print the main table; returns the paths written.

    The papers' figures are read from the folder `published` beside `profile_dir`.

    runs_dir: holds scores/*.jsonl, for the examples, which need open_dataset too. training: logs, for the curves and
    what the training cost. photographs: names and bytes of more files for the figures' folder. Raises UserError when
    there are no records, and before anything is replaced that was not written here.
    """
    profile_dir = Path(profile_dir)
    records, shown, printed = _records_and_tables(profile_dir, training)
    files = _views(records, shown, printed, training) | _under("figures", photographs or {})
    if runs_dir and open_dataset:
        files |= _under("figures", _qualitative_grids(Path(runs_dir) / "scores", open_dataset))
    outputs = Outputs(profile_dir)
    outputs.check(["index.html"])
    written = outputs.write(files)
    outputs.remove_others(files, "tables", (".md", ".csv", ".tex"))
    outputs.remove_others(files, "figures", (".png", ".svg", ".pdf"))
    written += outputs.write({"index.html": page.write(profile_dir, profile_dir.name, shown, records)})
    _print_main(shown)
    return written


def write_page(profile_dir: Path, training: Sequence[Training] = ()) -> None:
    """Write the page alone, from the records and what lies beside it. Raises UserError as `build` does."""
    records, shown, _ = _records_and_tables(profile_dir, training)
    Outputs(profile_dir).write({"index.html": page.write(profile_dir, profile_dir.name, shown, records)})


def verify(profile_dir: Path, training: Sequence[Training] = ()) -> list[str]:
    """Make the views of `profile_dir`/records again, in memory, and compare them with the files -> names of the files
    that are the same. Photographs are left out, because they need predictions and images.

    Raises UserError, naming them, for files that differ or are missing, and for tables and drawings that no record
    gives.
    """
    profile_dir = Path(profile_dir)
    records, shown, printed = _records_and_tables(profile_dir, training)
    files = _views(records, shown, printed, training)
    files["index.html"] = page.write(profile_dir, profile_dir.name, shown, records)
    made = {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}
    wrong = [name for name, content in made.items() if not _holds(profile_dir / name, content)]
    there = [*(profile_dir / "tables").glob("*"), *(profile_dir / "figures").glob("*.svg")]
    wrong += sorted({f"{path.parent.name}/{path.name}" for path in there} - made.keys())
    if wrong:
        raise UserError(
            f"{printable(profile_dir)}: {len(wrong)} of {len(made)} files are not what the records give "
            f"({', '.join(wrong)}); run `genseg report`."
        )
    return sorted(made)


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def tables_of(profile_dir: Path) -> dict[str, list[layout.Table]]:
    """Name of the files -> the tables of a profile's records. Raises UserError as `build` does."""
    return _records_and_tables(profile_dir)[1]


def _records_and_tables(
    profile_dir: Path, training: Sequence[Training] = ()
) -> tuple[list[Record], dict[str, list[layout.Table]], pd.DataFrame]:
    """The records, their tables, and the papers' figures."""
    records_dir = profile_dir / "records"
    records = read_records(records_dir) if records_dir.exists() else []
    if not records:
        raise UserError(f"{records_dir}: no records there; run `make reproduce` or `genseg eval` first.")
    own = profile_dir.parent / "published"
    published = own if own.is_dir() else asset("results", "published")
    shown = _tables(records, published) | {"provenance": provenance(records, profile_dir.name)}
    cost = {"training_cost": training_cost(training)} if training else {}
    return records, shown | cost, load_published(published)


def _views(
    records: Sequence[Record], shown: Mapping[str, Sequence[layout.Table]], printed: pd.DataFrame,
    training: Sequence[Training],
) -> dict[str, bytes | str]:  # fmt: skip
    """Name -> content of every table and figure that needs no more than records and logs."""
    return {**_table_files(shown), **_under("figures", figures_of(records, printed, training))}


def _under(folder: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": content for name, content in files.items()}


def _tables(records: Sequence[Record], published_dir: Path) -> dict[str, list[layout.Table]]:
    """Name of the files -> their tables; those without rows are left out."""
    main = tables.overview(records)
    printed = load_published(published_dir)
    beside = [tables.published(printed, load_selection(published_dir))] if main and len(printed) else []
    accuracy = tables.accuracy(records)
    found = {
        "benchmarks": benchmarks.benchmarks(records, printed, load_selection(published_dir).methods),
        "main": [*main, *beside],
        "accuracy": [*accuracy, *(beside if accuracy else [])],
        "reconstruction": tables.reconstruction(records),
        "ablation": tables.ablations(records),
        "findings": findings.findings(records, printed),
        "claims": summary.claims(records, printed),
        "perception": tables.perception(records),
        "understanding": understanding(records),
        "budget": budgets(records),
        "breakdown": tables.breakdowns(records),
        "latency": tables.latency(records),
        "speedup": speed.speedups(records),
        "orders": speed.orders(records),
        "roofline": speed.roofline(records),
        "claim": claim.claims(records),
        "scaling": scaling.tables(records),
        "rounding": speed.rounding(records),
        "published": [tables.published_list(printed)] if beside else [],
    }
    return {name: own for name, own in found.items() if own}


def _table_files(shown: Mapping[str, Sequence[layout.Table]]) -> dict[str, str]:
    """All tables in all forms. A CSV holds no table of the papers' beside ours: its columns differ."""
    files = {}
    for name, own in shown.items():
        alike = [table for table in own if table.columns == own[0].columns]
        origin = "" if name in ("provenance", "published") else ORIGIN
        files[f"tables/{name}.md"] = layout.markdown(*own) + origin
        files[f"tables/{name}.csv"] = layout.to_csv(*alike)
        files[f"tables/{name}.tex"] = latex.latex(*own)
    return files


def _print_main(shown: Mapping[str, Sequence[layout.Table]]) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = LOG_WIDTH
    for table in shown.get("benchmarks") or shown.get("main", ()):
        layout.print_table(table, console)


def _qualitative_grids(scores: Path, open_dataset: OpenDataset) -> dict[str, bytes]:
    """One qualitative grid per dataset, split and protocol: all methods but the trivial baselines. One whose images
    are not at hand is left out."""
    places: dict[tuple[str, str, str], dict[str, list[dict[str, Any]]]] = {}
    for path in sorted(scores.glob("*.jsonl")):
        rows = [row for _, row in read_lines(path)]
        first = rows[0] if rows else {}
        method = first.get("method", "")
        if "iou" not in first:  # a box or a letter was asked for, so there is no mask to be shown
            continue
        if not method or method.startswith(BASELINE) or first.get("variant") or first.get("tokens"):
            continue
        place = tuple(str(first.get(name)) for name in ("dataset", "split", "protocol"))
        places.setdefault(place, {})[method] = rows
    files = {}
    for (dataset, split, protocol), methods in sorted(places.items()):
        try:
            image = qualitative_grid.draw_grid(methods, open_dataset(dataset, split))
        except UserError as error:
            print(printable(f"Examples of {dataset} {split} left out: {error}"), file=sys.stderr)
            continue
        if image:
            buffer = io.BytesIO()
            image.save(buffer, "WEBP", quality=80)
            files[file_name("examples", dataset, split, protocol, join=".") + ".webp"] = buffer.getvalue()
    return files


def show(paths: Iterable[Path]) -> str:
    """The written paths as one sentence for the terminal."""
    paths = list(paths)
    return f"Wrote {len(paths)} files: " + ", ".join(str(path) for path in paths)
