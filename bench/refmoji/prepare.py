"""The embedded dataset, built when a profile first needs it."""

from __future__ import annotations

from bench.config import Profile
from bench.data.mixture import component_configs, embedded, train_root
from bench.data.splits import own_benchmark
from bench.refmoji.build import build

SEALED = "test"  # the split that is drawn when all choices have been made


def prepare_data(profile: Profile, train: bool) -> None:
    """Build the embedded dataset's splits that the profile needs, if they are missing."""
    data = profile.data
    if embedded(data.dataset):
        splits = [SEALED] if data.test_seed else None
        build(data.level, own_benchmark(profile).root, splits, seed=data.test_seed, workers=data.workers)
    for source in component_configs(profile).values() if train else ():
        if embedded(source.dataset):
            build(
                level=source.level, root=train_root(source), splits=["train"], train_scenes=source.train_scenes,
                seed=data.seed, workers=data.workers,
            )  # fmt: skip
