"""Train the stages of a profile: `genseg train`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bench.config import Profile, resolved
from bench.distributed import join
from bench.refmoji.prepare import prepare_data
from bench.runtime import device_of
from bench.train.folders import stages_in_order
from bench.train.stages import Validate, train_stage


def train(profile: Profile, names: Iterable[str] = (), validate: Validate | None = None) -> list[Path]:
    """Train the named stages, or all, with what they build on; alone, or as one of the processes of a launcher."""
    order = stages_in_order(profile, names)
    context = join()
    if context.first:
        prepare_data(profile, train=True)
    context.wait()
    models = [train_stage(profile, name, resolved(profile), device_of(), context, validate) for name in order]
    context.leave()
    return models
