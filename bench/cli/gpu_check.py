"""`genseg gpu-check`: whether a GPU does what it should, with a verdict for each check."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.cli.words import Commands, add_command, announce, profile_of, settings_of
from methods.base import UserError
from methods.files import number

TEXT = "acceptance of a GPU in some minutes, one verdict a check: device=cuda|cpu budget_s=480 share=0.5 (of the floor)"
OWN = ("device", "budget_s", "share")  # settings besides the profile's


def add_to(commands: Commands) -> None:
    add_command(commands, "gpu-check", TEXT, run)


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    import torch

    values = settings_of(words)
    own = {key: values.pop(key) for key in OWN if key in values}
    device = torch.device(_device(own.get("device", "cuda")))
    budget = number(own.get("budget_s", 480), "budget_s", 1, 10**6)
    share = number(own.get("share", 0.5 if device.type == "cuda" else 0), "share", 0, 1)
    profile = profile_of([f"{key}={value}" for key, value in ({"profile": "gpu-check"} | values).items()])
    if "results" not in values:
        from bench.runtime import device_name

        place = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower())
        profile = replace(profile, results=str(Path("results", place)))
    announce("gpu-check", profile, ("latency", "train"), profile.stages)
    from bench.latency.acceptance import accept

    states = []
    for verdict in accept(profile, device, budget, share):
        print(f"{verdict.state:9}{verdict.check}: {verdict.told}", flush=True)
        states.append(verdict.state)
    print(f"records: {profile.results_dir / 'records'}", file=sys.stderr)
    if set(states) != {"pass"}:
        sys.exit(1)


def _device(name: str) -> str:
    """Raises UserError for a device that is none, or not here."""
    import torch

    if name not in ("cuda", "cpu"):
        raise UserError(f"device={name}: there is no such device; choose cuda or cpu.")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "There is no CUDA device here for gpu-check; with profile=gpu-check-tiny device=cpu it shows its way."
        )
    return name
