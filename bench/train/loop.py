"""The loop: draw, prepare, step, log, validate, snapshot; then save the model.

A stage's folder holds train.jsonl, speed.jsonl, validation.jsonl, a snapshot while it runs, config.yaml, settings.json,
and at the end model/. A killed run continues from its last snapshot and ends with the same bytes as an uninterrupted
one; SIGTERM makes it write a snapshot and leave with exit code 0.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from bench.config import StageConfig, TrainConfig
from bench.data.sampler import Sampler
from bench.progress import Progress
from bench.runtime import resolve_precision
from bench.train.batches import MicroBatch, MicroBatches, micro_images, stream
from bench.train.engine import Engine, LocalEngine, LossError, rate
from bench.train.folders import DONE
from bench.train.meter import FlopMeter, count_memory_anew, peak_flops
from bench.train.sight import Sight, append
from bench.train.snapshot import clean_up, load_snapshot, save_snapshot
from bench.train.trainable import enter, merge_adapters
from bench.train.world import ALONE, World
from methods.base import Trainee, UserError
from methods.files import fill, whole_folder, writing

LOGS = ("train.jsonl", "validation.jsonl")  # cut back to the snapshot when a run goes on
MEAN = 0.98  # share of the old value in the running mean of the loss
SEEN = 1000  # images at least, by which the share of broken ones is judged


@dataclass
class Run:
    """A stage ready to run. `validate` maps a method to numbers."""

    name: str
    folder: Path
    method: Trainee
    order: Sampler
    stage: StageConfig
    train: TrainConfig
    validate: Callable[[Trainee], dict[str, float]] | None = None
    world: World = ALONE


@dataclass
class Standing:
    """Where a run is, as its snapshots keep it."""

    step: int = 0
    mean: float | None = None  # of the loss
    broken: int = 0  # images of this run that were replaced
    lines: dict[str, int] = field(default_factory=dict)


def run_stage(run: Run, device: torch.device) -> Path:
    """Train to the end (from the last snapshot if there is one) and return the folder of the saved model."""
    torch.set_num_threads(run.train.threads)
    count_memory_anew(device)
    run.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(run.stage.seed)
    enter(run.method, run.stage, run.train)
    run.method.to(device).train()
    meter = FlopMeter(peak_flops(device))
    batches = MicroBatches(run.method.processor, run.order, run.stage, micro_images(run.stage, run.world))
    engine = make_engine(run, device, batches.per_step, meter)
    standing = _resume(run, engine)
    sight = Sight(run.name, run.folder, run.train, run.world, device)
    with Progress(run.name, run.stage.steps, standing.step) as progress, _terminated() as stop:
        _train(run, engine, standing, batches, sight, meter, progress, stop)
    _save_model(run, engine)
    engine.close()
    return run.folder / DONE


def make_engine(run: Run, device: torch.device, parts: int, meter: FlopMeter) -> Engine:
    """The engine that the profile asks for."""
    precision = resolve_precision(run.train.precision, device)
    if run.train.zero == 0:
        return LocalEngine(run.method, run.stage, precision, device, run.world, parts, meter)
    from bench.train.deepspeed import DeepSpeedEngine

    return DeepSpeedEngine(run.method, run.stage, run.train, precision, device, run.world, parts, meter)


def _train(
    run: Run, engine: Engine, standing: Standing, batches: MicroBatches, sight: Sight, meter: FlopMeter,
    progress: Progress, stop: list[int],
) -> None:  # fmt: skip
    """Every step from `standing` on."""
    source = stream(batches, run.world, standing.step, run.train.workers)
    mine = batches.per_step // run.world.size
    saved, last = time.monotonic(), run.stage.steps
    while standing.step < last:
        values = _one_step(run, engine, standing, list(islice(source, mine)), sight, progress)
        step = standing.step
        if step == last or step % run.train.log_every == 0:
            line = {"step": step, "samples": step * samples_per_step(run.stage)}
            sight.log(step, line | values | {"lr": run.stage.lr * rate(step - 1, run.stage)}, meter)
        if run.world.first:
            progress.advance(values | sight.latest)
        if run.validate and (step == last or (run.stage.validate_every and step % run.stage.validate_every == 0)):
            _validate(run, engine, step, progress)
        late = time.monotonic() - saved > 60 * run.train.save_minutes
        asked = [any(each) for each in zip(*run.world.gather((bool(stop), late)), strict=True)]
        if any(asked):
            _save(run, engine, standing)
            saved = time.monotonic()
        if asked[0] and run.world.first:
            progress.note(f"stopped by a signal after step {step}; the same command goes on from there.")
        if asked[0]:
            run.world.leave()
            sys.exit(0)


def samples_per_step(stage: StageConfig) -> int:
    return stage.images * stage.per_image


def _one_step(
    run: Run, engine: Engine, standing: Standing, micro_batches: list[MicroBatch], sight: Sight, progress: Progress
) -> dict[str, float]:
    step = standing.step
    _count_broken(run, standing, micro_batches, progress)
    try:
        values = engine.step(step, micro_batches)
    except LossError as error:
        raise UserError(_bad_loss(run, str(error), step, error.names)) from None
    names = [name for micro in micro_batches for name in micro.names]
    loss, mean = values["loss"], standing.mean
    if run.train.explode and mean is not None and step > run.stage.warmup and loss > run.train.explode * max(1, mean):
        everyone = [name for of_process in run.world.gather(names) for name in of_process]
        raise UserError(_bad_loss(run, f"the loss jumped from {mean:.3f} to {loss:.3f}", step, everyone))
    standing.mean = loss if mean is None else MEAN * mean + (1 - MEAN) * loss
    standing.step += 1
    sight.speed.count(len(names), sum(micro.tokens for micro in micro_batches))
    return values


def _bad_loss(run: Run, what: str, step: int, names: list[str]) -> str:
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"{run.name}: {what} at step {step}; lower lr or look at the samples {shown}."


def _count_broken(run: Run, standing: Standing, micro_batches: list[MicroBatch], progress: Progress) -> None:
    """Report images that were replaced, and stop if they are too many."""
    for micro in micro_batches:
        if micro.error:
            raise UserError(f"{run.name}: {micro.error}")
        for sentence in micro.broken:
            progress.note(f"replaced an image: {sentence}")
    standing.broken += sum(run.world.gather(sum(len(micro.broken) for micro in micro_batches)))
    seen = (standing.step + 1) * run.stage.images
    if standing.broken > run.train.broken_share * max(SEEN, seen):
        raise UserError(
            f"{run.name}: {standing.broken} images of {seen} could not be used, more than "
            f"train.broken_share={run.train.broken_share}; repair the data named above."
        )


# ---- snapshots, validation, the end -----------------------------------------------------------------------------


def _resume(run: Run, engine: Engine) -> Standing:
    """Load the last snapshot, cut the logs back to it, and return where it stands."""
    found = load_snapshot(run.folder)
    run.world.wait()  # nobody touches the logs before all have looked
    if found is None:
        for name in (*LOGS, "speed.jsonl") if run.world.first else ():
            (run.folder / name).unlink(missing_ok=True)
        return Standing()
    tensors, state = found
    now = _identity(run)
    order = state.pop("order", now)
    if not isinstance(order, dict):
        raise UserError(f"{run.folder}: the snapshot does not tell its data; remove the folder to start again.")
    changed = [key for key in now | order if order.get(key) != now.get(key)]
    if changed:
        key = changed[0]
        raise UserError(
            f"{run.folder}: the snapshot was made with {key} = {order.get(key)}, now it is {now.get(key)}; set it "
            "back, or remove the folder to start anew."
        )
    standing = fill(Standing, state, f"{run.folder}: the snapshot", "remove the folder to start again")
    engine.load_state(tensors)
    for name in LOGS if run.world.first else ():
        path = run.folder / name
        if path.exists():  # a log that the snapshot does not note was born after it
            lines = path.read_text().splitlines(keepends=True)
            with writing(path):
                path.write_text("".join(lines[: standing.lines.get(name, 0)]))
    return standing


def _identity(run: Run) -> dict[str, object]:
    """What fixes which samples are in which step; a run may only go on with the same."""
    stage = run.stage
    grouped = {"group_lengths": stage.group_lengths, "steps": stage.steps} if stage.group_lengths > 1 else {}
    return run.order.identity() | grouped


def _save(run: Run, engine: Engine, standing: Standing) -> None:
    tensors = engine.state()
    if run.world.first:
        logs = [name for name in LOGS if (run.folder / name).exists()]
        standing.lines = {name: len((run.folder / name).read_text().splitlines()) for name in logs}
        save_snapshot(run.folder, standing.step, tensors, vars(standing) | {"order": _identity(run)})
    run.world.wait()


def _validate(run: Run, engine: Engine, step: int, progress: Progress) -> None:
    with engine.whole():
        run.method.eval()
        values = run.validate(run.method)  # by every process: ZeRO 3 gathers a part wherever it is used
        run.method.train()
        if run.world.first:
            line = {"step": step, "samples": step * samples_per_step(run.stage)}
            append(run.folder / "validation.jsonl", line | values)
            progress.note(f"step {step}: " + ", ".join(f"{name} {value:.3f}" for name, value in values.items()))
        run.world.wait()


def _save_model(run: Run, engine: Engine) -> None:
    with engine.whole():
        if run.world.first:
            if run.stage.lora:
                merge_adapters(run.method)
            with whole_folder(run.folder / DONE) as draft:
                run.method.save_pretrained(draft)
            clean_up(run.folder)
        run.world.wait()


@contextmanager
def _terminated() -> Iterator[list[int]]:
    """A list that is filled when SIGTERM comes; as before outside the main thread, where signals cannot be caught."""
    got: list[int] = []

    def note(number: int, frame: Any) -> None:
        got.append(number)

    try:
        before = signal.signal(signal.SIGTERM, note)
    except ValueError:
        yield got
        return
    try:
        yield got
    finally:
        signal.signal(signal.SIGTERM, before)
