"""The loop: draw, prepare, step, log, validate, snapshot; then save the model.

A stage's folder holds train.jsonl, validation.jsonl, a snapshot while it runs, config.yaml, and at the end model/.
A killed run continues from its last snapshot and ends with the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.config import StageConfig, TrainConfig
from bench.progress import Progress
from bench.train.engine import LocalEngine, rate, resolve_precision
from bench.train.order import Drawn, Order
from bench.train.snapshot import load_snapshot, save_snapshot, snapshots
from methods.base import Method, UserError

DONE = "model"


@dataclass
class Run:
    """A stage ready to run. `validate` maps a method to numbers; it must not touch torch's generator."""

    name: str
    folder: Path
    method: Method
    order: Order
    stage: StageConfig
    train: TrainConfig
    validate: Callable[[Method], dict[str, float]] | None = None


def run_stage(run: Run, device: torch.device) -> Path:
    """Train to the end (from the last snapshot if there is one) and return the folder of the saved model."""
    torch.set_num_threads(run.train.threads)
    run.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(run.stage.seed)
    run.method.enter_stage(run.stage.stage)
    run.method.to(device).train()
    engine = LocalEngine(run.method, run.stage, resolve_precision(run.train.precision, device), device)
    first = _resume(run, engine)
    saved = time.monotonic()
    with Progress(run.name, run.stage.steps, first) as progress:
        for step in range(first, run.stage.steps):
            values = _one_step(run, engine, step)
            done = step + 1 == run.stage.steps
            if done or (step + 1) % run.train.log_every == 0:
                line = {"step": step + 1, "samples": (step + 1) * samples_per_step(run.stage)}
                _append(run.folder / "train.jsonl", line | values | {"lr": run.stage.lr * rate(step, run.stage)})
            progress.advance(values)
            if run.validate and (done or (run.stage.validate_every and (step + 1) % run.stage.validate_every == 0)):
                _validate(run, step + 1, progress)
            if time.monotonic() - saved > 60 * run.train.save_minutes:
                save_snapshot(run.folder, step + 1, engine.state(), _lines(run.folder))
                saved = time.monotonic()
    draft = run.folder / f".{DONE}.part"
    shutil.rmtree(draft, ignore_errors=True)
    run.method.save_pretrained(draft)
    draft.rename(run.folder / DONE)
    for old in snapshots(run.folder):
        shutil.rmtree(old)
    return run.folder / DONE


def samples_per_step(stage: StageConfig) -> int:
    return stage.images * stage.per_image


def _one_step(run: Run, engine: LocalEngine, step: int) -> dict[str, float]:
    drawn = run.order(step)
    samples = [run.method.prepare(d.example, d.task, d.rng) for d in drawn]
    try:
        return engine.step(step, run.method.collate(samples))
    except FloatingPointError as error:
        raise UserError(
            f"{run.name}: {error} at step {step}; lower lr or look at the samples {_names(drawn)}."
        ) from None


def _names(drawn: list[Drawn]) -> str:
    return ", ".join(f"{d.example.dataset}:{d.example.ref_id}" for d in drawn[:4]) + (" ..." if len(drawn) > 4 else "")


def _resume(run: Run, engine: LocalEngine) -> int:
    """Load the last snapshot, cut the logs back to it, and return the next step."""
    found = load_snapshot(run.folder)
    if found is None:
        for name in ("train.jsonl", "validation.jsonl"):
            (run.folder / name).unlink(missing_ok=True)
        return 0
    tensors, state = found
    engine.load_state(tensors)
    for name, count in state["lines"].items():
        path = run.folder / name
        lines = path.read_text().splitlines(keepends=True)[:count] if path.exists() else []
        path.write_text("".join(lines))
    return state["step"]


def _lines(folder: Path) -> dict[str, Any]:
    names = [name for name in ("train.jsonl", "validation.jsonl") if (folder / name).exists()]
    return {"lines": {name: len((folder / name).read_text().splitlines()) for name in names}}


def _validate(run: Run, step: int, progress: Progress) -> None:
    run.method.eval()
    values = run.validate(run.method)
    run.method.train()
    _append(run.folder / "validation.jsonl", {"step": step, "samples": step * samples_per_step(run.stage)} | values)
    progress.note(f"step {step}: " + ", ".join(f"{name} {value:.3f}" for name, value in values.items()))


def _append(path: Path, line: dict[str, Any]) -> None:
    rounded = {k: round(v, 6) if isinstance(v, float) else v for k, v in line.items()}
    with path.open("a") as handle:
        handle.write(json.dumps(rounded) + "\n")
