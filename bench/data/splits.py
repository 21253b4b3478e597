"""The benchmarks of a profile: datasets to evaluate on, each with its splits and the settings that hold for it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.config import BenchmarkConfig, EvaluateConfig, Profile
from bench.data.cards import label_of, load_card, open_dataset
from bench.data.dataset import Dataset
from bench.data.mixture import embedded
from methods.base import UserError
from methods.files import file_name


@dataclass(frozen=True)
class Benchmark:
    """A dataset with all that is needed to open it. settings: `evaluate` with what the benchmark itself says."""

    dataset: str
    root: Path
    images: str = ""
    split_by: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    settings: EvaluateConfig = field(default_factory=EvaluateConfig)

    @property
    def label(self) -> str:
        """Its name in records and file names."""
        return label_of(self.dataset, self.split_by)

    @property
    def where(self) -> dict[str, Any]:
        """What its reader is told beside root and split."""
        return {"images": self.images, "split_by": self.split_by, **self.options}

    def place(self, name: str) -> str:
        """A part of a file's name, with the dataset before it unless that is the embedded one."""
        return name if embedded(self.dataset) else file_name(self.label, name, join=".")


def own_benchmark(profile: Profile) -> Benchmark:
    """The dataset of the profile's `data`, whatever else it evaluates on."""
    data = profile.data
    root = Path(data.root) / "eval" if embedded(data.dataset) else Path(data.root)
    return Benchmark(data.dataset, root, data.images, data.split_by, settings=profile.evaluate)


def benchmarks_of(profile: Profile) -> list[Benchmark]:
    """All that the profile evaluates on. Raises UserError for a dataset or split that does not exist, and for one that
    is named twice."""
    own = own_benchmark(profile)
    found = [_filled(own, profile, name, each) for name, each in profile.evaluate.datasets.items()] or [own]
    seen: set[tuple[str, str]] = set()
    for benchmark in found:
        for split in benchmark.settings.splits:
            if profile.evaluate.datasets and split not in load_card(benchmark.dataset).splits:
                known = ", ".join(load_card(benchmark.dataset).splits)
                raise UserError(f"evaluate.datasets: {benchmark.dataset} has no split {split!r}; choose from {known}.")
            if (benchmark.label, split) in seen:
                raise UserError(f"evaluate.datasets: {benchmark.label} {split} is named twice; leave one of them out.")
            seen.add((benchmark.label, split))
    return found


def _filled(own: Benchmark, profile: Profile, name: str, given: BenchmarkConfig) -> Benchmark:
    dataset = given.dataset or name
    root = Path(given.root) if given.root else own.root if dataset == own.dataset else Path(profile.data.root)
    settings = replace(
        profile.evaluate, splits=given.splits or profile.evaluate.splits, limit=given.limit or profile.evaluate.limit,
        protocols=given.protocols or profile.evaluate.protocols, batch=given.batch or profile.evaluate.batch,
    )  # fmt: skip
    images = given.images or ("" if given.root else own.images)
    split_by = given.split_by or (own.split_by if dataset == own.dataset else "")
    return Benchmark(dataset, root, images, split_by, given.options, settings)


def open_split(benchmark: Benchmark, split: str, with_images: bool = True) -> Dataset:
    """A split of a benchmark; without its images where only ground truth is wanted."""
    return open_dataset(benchmark.dataset, benchmark.root, split, with_images=with_images, **benchmark.where)
