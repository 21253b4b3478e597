"""The tables, figures and page of a profile: `genseg report`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.config import Profile
from bench.data.cards import of_label
from bench.data.splits import benchmarks_of, open_split, own_benchmark
from bench.report.browser.run import write_browser
from bench.report.build import build, verify, write_page
from bench.report.strips import prefix_strips
from bench.report.training_logs import trainings
from bench.train.folders import keep_log, model_of_stage


def write_report(profile: Profile, strips: bool = False) -> list[Path]:
    """Tables and figures from the records that exist; beside them what finished stages scored while they ran here,
    but for those whose whole logs are bundled. strips: draw masks from coarse to fine too, which loads the mask
    tokenizers; without it those that are there stay."""
    opened = partial(_opened, profile)
    drawn = prefix_strips(profile, opened) if strips else {}
    written = build(profile.results_dir, profile.runs_dir, opened, trainings(profile), drawn)
    for stage in profile.stages:
        bundled = profile.results_dir / "logs" / stage / "train.jsonl"
        if model_of_stage(profile, stage).is_dir() and not bundled.is_file():
            keep_log(profile, stage, "validation.jsonl")
    return written


def _opened(profile: Profile, dataset: str, split: str) -> Any:
    known = {benchmark.label: benchmark for benchmark in (own_benchmark(profile), *benchmarks_of(profile))}
    if dataset in known:
        return open_split(known[dataset], split)
    name, split_by = of_label(dataset)  # of an earlier run
    return open_split(replace(own_benchmark(profile), dataset=name, split_by=split_by), split)


def write_samples(profile: Profile, out: Path | None, samples: int, inline: int, stepped: int) -> str:
    """Write the sample browser, and its link in the page if it stands beside one -> a sentence. See `write_browser`."""
    written = write_browser(profile, partial(_opened, profile), out, samples, inline, stepped)
    if out is None and (profile.results_dir / "index.html").is_file():
        write_page(profile.results_dir, trainings(profile))
    return f"{written}: open it in a browser."


def verify_report(profile: Profile) -> str:
    """Compare the tables, figures and page with what the records give -> a sentence. Raises UserError for others."""
    same = verify(profile.results_dir, trainings(profile))
    return f"{profile.results_dir}: {len(same)} files are what the records give."
