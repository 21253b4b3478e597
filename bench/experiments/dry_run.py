"""`--dry-run`: a profile's evaluation walked from end to end without a weight being loaded.

What is needed, what of it is found, what is missing and where it comes from, how many questions there are, and what
they will take of a GPU by estimate. Raises UserError at the end if anything that is needed is missing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.config import EvaluateConfig, Profile
from bench.data.cards import Card, load_card
from bench.data.mixture import embedded
from bench.data.readers import READERS
from bench.data.splits import Benchmark, benchmarks_of
from bench.data.status import FOUND, MISSING, WRONG, SplitStatus, archives_of, how_to_get, split_status
from bench.evaluate import cost
from bench.evaluate.plan import questions_in
from bench.evaluate.protocols import asks, protocol_of
from bench.terminal import cell, short
from bench.train.folders import needed_stages
from bench.train.models import existing_model
from bench.weights import content_of, fault_of
from methods.base import UserError
from methods.files import printable
from methods.registry import method_of, method_spec

TO_TRAIN, TO_BUILD = "to be trained", "to be built"
GIVEN = (FOUND, TO_TRAIN, TO_BUILD)  # states in which nothing is left to be done by the user


@dataclass(frozen=True)
class Part:
    """Something that is needed. what: a checkpoint's method or a dataset; place: where it is sought. notes: what is
    remarkable, or wrong and how to mend it."""

    what: str
    place: str
    state: str
    size: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SplitPart:
    """A split of a benchmark. asked: method -> its questions under all protocols; None: unknown before it is there."""

    benchmark: Benchmark
    status: SplitStatus
    asked: Mapping[str, int | None] = field(default_factory=dict)


def dry_run(profile: Profile, trains: bool = False) -> None:
    """Print what the profile's evaluation needs, has and will take. trains: stages without weights are trained first,
    as `genseg reproduce` does it."""
    models = [part for name in profile.models for part in models_of(profile, name, trains)]
    splits = [found for benchmark in benchmarks_of(profile) for found in splits_of(profile, benchmark)]
    console = Console(width=None if os.environ.get("COLUMNS") else 140)
    console.print(_model_table(models))
    console.print(_split_table(profile, splits))
    _tell(models, splits)
    console.print(_cost_table(profile, splits))
    console.print(f"Estimates, not measurements. Assumed: {cost.ASSUMED}.", highlight=False)
    absent = [f"{part.what} ({part.place})" for part in models if part.state not in GIVEN]
    absent += [f"{each.benchmark.label} {each.status.split}" for each in splits if each.status.state not in GIVEN]
    if absent:
        listed = ", ".join(absent[:6]) + (f" and {len(absent) - 6} more" if len(absent) > 6 else "")
        raise UserError(
            f"{len(absent)} of {len(models) + len(splits)} things that {profile.name} needs are missing or wrong: "
            f"{listed}; the list above says where each comes from."
        )


# ---- weights --------------------------------------------------------------------------------------------------------


def models_of(profile: Profile, method: str, trains: bool) -> list[Part]:
    """The weights of a method, and the file of its mask tokenizer if the profile names one."""
    folder, other = profile.checkpoint_of(method), profile.mask_tokenizer_of(method)
    parts = [_stage(profile, method, trains) if folder is None else _checkpoint(method, folder)]
    if other is not None:
        state, notes = FOUND, ()
        fault = fault_of(other)
        if fault:
            state = WRONG if other.exists() else MISSING
            notes = (f"{fault}; source: {method_spec(method).releases.get('mask_tokenizer', 'its release')}",)
        size = other.stat().st_size if other.is_file() else 0
        parts.append(Part(f"mask tokenizer of {method}", str(other), state, size, notes))
    return parts


def _checkpoint(method: str, folder: Path) -> Part:
    source = f"source: {method_spec(method).releases.get('checkpoint', 'its release')}"
    try:
        content = content_of(folder)
        faults = list(content.faults)
        if (folder / "config.json").is_file() and method_of(folder) != method:
            faults.append(f"holds a model of {method_of(folder)}, not of {method}")
    except UserError as error:
        return Part(method, str(folder), WRONG, notes=(str(error).rstrip("."), source))
    if faults:
        return Part(method, str(folder), WRONG if folder.is_dir() else MISSING, sum(content.files.values()),
                    (*faults, source))  # fmt: skip
    count = f"{short(content.parameters)} parameters" if content.parameters else "parameters unknown"
    told = f"{count} in {len(content.files)} file{'s' * (len(content.files) > 1)}"
    return Part(method, str(folder), FOUND, sum(content.files.values()), (told,))


def _stage(profile: Profile, method: str, trains: bool) -> Part:
    stage = profile.models[method]
    try:
        found = existing_model(profile, method)
    except UserError as error:
        return Part(method, f"stage {stage}", WRONG, notes=(str(error).rstrip("."),))
    if found is not None:
        return Part(method, str(found), FOUND, sum(path.stat().st_size for path in found.glob("*.safetensors")))
    told = f"`genseg plan {stage}` says what it costs, with the stages {', '.join(needed_stages(profile, stage))}"
    return Part(method, f"stage {stage}", TO_TRAIN if trains else MISSING, notes=(told,))


# ---- data -----------------------------------------------------------------------------------------------------------


def splits_of(profile: Profile, benchmark: Benchmark) -> list[SplitPart]:
    """The splits of a benchmark, and how many questions each method is asked."""
    card = load_card(benchmark.dataset)
    found = []
    for split in benchmark.settings.splits:
        if embedded(benchmark.dataset):
            status = SplitStatus(split, FOUND if (benchmark.root / "dataset.json").is_file() else TO_BUILD)
        else:
            status = split_status(card, benchmark.root, split, benchmark.where)
        counts = status.counts or card.counts.get(split, {})
        found.append(SplitPart(benchmark, status, _asked(profile, card, benchmark.settings, counts)))
    return found


def _asked(profile: Profile, card: Card, settings: EvaluateConfig, counts: Mapping[str, int]) -> dict[str, int | None]:
    """Method -> the number of its questions; methods that have no protocol for the task are left out."""
    reader = READERS[card.readers[0]]
    task, scored = reader.task, tuple(card.wants) or reader.wants
    asked: dict[str, int | None] = {}
    for name in profile.models:
        rules = [
            protocol_of(protocol, task, name) for protocol in settings.protocols if asks(protocol, task, name, scored)
        ]
        numbers = [questions_in(counts, rule.sentences, settings.limit) for rule in rules]
        if numbers:
            known = [number for number in numbers if number is not None]
            asked[name] = sum(known) * len(settings.decode_rules) if len(known) == len(numbers) else None
    return asked


# ---- printing -------------------------------------------------------------------------------------------------------


def _table(title: str, *columns: str) -> Table:
    table = Table(title=cell(title))
    for name in columns:
        table.add_column(name, overflow="fold", justify="left" if name in TEXTS else "right")
    return table


TEXTS = ("weights", "folder or file", "state", "dataset", "split", "form", "method")


def _model_table(models: Sequence[Part]) -> Table:
    table = _table("weights", "weights", "folder or file", "state", "size")
    for part in models:
        table.add_row(cell(part.what), cell(part.place), part.state, _bytes(part.size) if part.size else "")
    return table


def _split_table(profile: Profile, splits: Sequence[SplitPart]) -> Table:
    asked = [name for name in profile.models if any(name in each.asked for each in splits)]
    heads = ("dataset", "split", "state", "form", "images", "samples", *(f"asked of {name}" for name in asked))
    table = _table("data, and questions of all protocols", *heads)
    for each in splits:
        status = each.status
        counts = [f"{status.counts[key]:,}" if key in status.counts else "" for key in ("images", "referents")]
        numbers = [_count(each.asked[name]) if name in each.asked else "–" for name in asked]
        told = [each.benchmark.label, status.split, status.state, status.form]
        table.add_row(*map(cell, told), *counts, *numbers)
    return table


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


def _tell(models: Sequence[Part], splits: Sequence[SplitPart]) -> None:
    """One line per remark: on weights, on splits, and once for each dataset and archive where it comes from."""
    lines = [f"{part.what}: {note}." for part in models for note in part.notes]
    for each in splits:
        notes = "; ".join(note.rstrip(".") for note in each.status.notes)
        lines += [f"{each.benchmark.label} {each.status.split}: {notes}."] if notes else []
    absent = {each.benchmark.label: each.benchmark for each in splits if each.status.state == MISSING}
    lines += [f"{label}: not in {benchmark.root}; {how_to_get(load_card(benchmark.dataset))}."
              for label, benchmark in absent.items()]  # fmt: skip
    places = {(archive, each.benchmark.root): each.benchmark for each in splits
              for archive in load_card(each.benchmark.dataset).archives}  # fmt: skip
    for (archive, root), benchmark in places.items():
        whole = archives_of(load_card(benchmark.dataset), root, [archive])
        lines += [f"{root / archive}: {'as released' if ok else 'not the released file, download it again'}."
                  for ok in whole.values()]  # fmt: skip
    print("\n".join(map(printable, lines)))


def _cost_table(profile: Profile, splits: Sequence[SplitPart]) -> Table:
    gpus = list(cost.BYTES_PER_SECOND)
    hours = [f"hours of an {gpu}" for gpu in gpus]
    table = _table("what it takes, by estimate", "method", "questions", "GB of a GPU", *hours)
    for name in profile.models:
        asked = [each.asked[name] for each in splits if name in each.asked]
        known = sum(number for number in asked if number is not None)
        more = "" if all(number is not None for number in asked) else " and more"
        folder = profile.checkpoint_of(name)
        size = cost.size_of_model(folder, profile.size) if folder else profile.size
        found = cost.estimate(name, size, profile.evaluate)
        numbers = [f"{found.memory / 1e9:.1f}", *(_hours(found.seconds(gpu) * known) for gpu in gpus)] if found else []
        table.add_row(cell(name), f"{known:,}{more}", *(numbers or ["unknown"]))
    return table


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.0f}" if hours >= 10 else f"{math.ceil(hours * 10) / 10:.1f}"
