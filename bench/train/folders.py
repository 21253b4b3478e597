"""Which stages a command runs, in which order, and where each keeps what it makes. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bench.config import Profile
from bench.outputs import Outputs
from methods.base import UserError

DONE = "model"  # the folder of a finished stage's weights
SHOWN = 200  # lines of a log, at most, that are bundled


def check_stages(profile: Profile, names: Iterable[str]) -> None:
    """Raise UserError for a stage that the profile lacks."""
    for name in names:
        if name not in profile.stages:
            known = ", ".join(profile.stages)
            raise UserError(f"There is no stage {name!r} in profile {profile.name}; choose from {known}.")


def needed_stages(profile: Profile, name: str) -> list[str]:
    """The stage and all that it builds on, in the order in which they must run."""
    order: list[str] = []
    for value in profile.stages[name].model.values():
        if isinstance(value, str) and value.startswith("stage:"):
            order += [s for s in needed_stages(profile, value[6:]) if s not in order]
    return [*order, name]


def stages_in_order(profile: Profile, names: Iterable[str] = ()) -> list[str]:
    """The named stages, or all, each after those that it builds on. Raises UserError for a stage that the profile
    lacks."""
    names = list(names)
    check_stages(profile, names)
    return list(dict.fromkeys(each for name in names or profile.stages for each in needed_stages(profile, name)))


def stage_folder(profile: Profile, name: str) -> Path:
    return profile.runs_dir / name


def model_of_stage(profile: Profile, name: str) -> Path:
    """Where a finished stage keeps its model."""
    return stage_folder(profile, name) / DONE


def keep_log(profile: Profile, stage: str, log: str) -> None:
    """Copy the log of a stage that ran here, or some of its lines if it is long, to results/<profile>/logs."""
    path = stage_folder(profile, stage) / log
    if path.is_file():
        lines = path.read_text().splitlines(keepends=True)
        kept = "".join(lines[:: -(-len(lines) // SHOWN) or 1])
        Outputs(profile.results_dir).write({f"logs/{stage}/{log}": kept})
