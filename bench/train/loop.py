"""The loop: draw, prepare, step, log, validate, checkpoint; then save the model.

A stage's folder holds train.jsonl, speed.jsonl, validation.jsonl, a checkpoint while it runs, config.yaml,
settings.json, and at the end model/. A killed run resumes from its last checkpoint and ends with the same bytes as an
uninterrupted one; SIGTERM makes it write a checkpoint and leave with exit code 0.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from bench.config import StageConfig, TrainConfig
from bench.data.sampler import Sampler
from bench.distributed import SINGLE_PROCESS, DistributedContext
from bench.progress import Progress
from bench.runtime import resolve_precision
from bench.train.batches import MicroBatch, MicroBatches, micro_batch_size, stream
from bench.train.checkpoints import clean_up, load_checkpoint
from bench.train.engine import Engine, LocalEngine, LossError, rate
from bench.train.folders import DONE
from bench.train.freezing import enter, merge_adapters
from bench.train.metrics_logger import MetricsLogger, append
from bench.train.saving import Saver
from bench.train.throughput import FlopMeter, peak_flops, reset_peak_memory
from methods.base import Trainee, UserError
from methods.files import fill, whole_folder, writing

LOGS = ("train.jsonl", "validation.jsonl")  # cut back to the checkpoint when a run resumes
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
    context: DistributedContext = SINGLE_PROCESS


@dataclass
class TrainState:
    """Where a run is, as its checkpoints keep it."""

    step: int = 0
    mean: float | None = None  # of the loss
    broken: int = 0  # images of this run that were replaced
    lines: dict[str, int] = field(default_factory=dict)


def run_stage(run: Run, device: torch.device) -> Path:
    """Train to the end (from the last checkpoint if there is one) and return the folder of the saved model."""
    torch.set_num_threads(run.train.threads)
    reset_peak_memory(device)
    run.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(run.stage.seed)
    enter(run.method, run.stage, run.train)
    run.method.train()
    meter = FlopMeter(peak_flops(device))
    batches = MicroBatches(run.method.processor, run.order, run.stage, micro_batch_size(run.stage, run.context))
    engine = make_engine(run, device, batches.per_step, meter)
    train_state = _resume(run, engine)
    logger = MetricsLogger(run.name, run.folder, run.train, run.context, device)
    saver = Saver(run.folder, run.train, run.context)
    with (
        closing(saver),
        Progress(run.name, run.stage.steps, train_state.step) as progress,
        _terminated() as stop,
    ):
        _train(run, engine, train_state, batches, logger, meter, progress, saver, stop)
        saver.finish()
    _save_model(run, engine)
    engine.close()
    return run.folder / DONE


def make_engine(run: Run, device: torch.device, parts: int, meter: FlopMeter) -> Engine:
    """The engine that the profile asks for."""
    precision = resolve_precision(run.train.precision, device)
    if run.train.zero == 0:
        return LocalEngine(run.method, run.stage, precision, device, run.context, parts, meter)
    from bench.train.deepspeed import DeepSpeedEngine

    return DeepSpeedEngine(run.method, run.stage, run.train, precision, device, run.context, parts, meter)


def _train(
    run: Run, engine: Engine, train_state: TrainState, batches: MicroBatches, logger: MetricsLogger, meter: FlopMeter,
    progress: Progress, saver: Saver, stop: list[int],
) -> None:  # fmt: skip
    """Every step from `train_state` on."""
    source = stream(batches, run.context, train_state.step, run.train.workers)
    mine = batches.per_step // run.context.size
    last = run.stage.steps
    while train_state.step < last:
        values = _one_step(run, engine, train_state, list(islice(source, mine)), logger, progress)
        step = train_state.step
        if step == last or step % run.train.log_every == 0:
            line = {"step": step, "samples": step * samples_per_step(run.stage)}
            logger.log(step, line | values | {"lr": run.stage.lr * rate(step - 1, run.stage)}, meter, saver.share())
        if run.context.first:
            progress.advance(values | logger.latest)
        if run.validate and (step == last or (run.stage.validate_every and step % run.stage.validate_every == 0)):
            _validate(run, engine, step, progress)
        _checkpoint(run, engine, train_state, progress, saver, bool(stop))


def _checkpoint(
    run: Run, engine: Engine, train_state: TrainState, progress: Progress, saver: Saver, stop: bool
) -> None:
    """Begin and finish checkpoints where it is time; leave after one if a process was asked to stop."""
    told = list(zip(*run.context.gather((stop, saver.eager, saver.due(), saver.written())), strict=True))
    stop, eager, due = (any(each) for each in told[:3])
    if all(told[3]):
        saver.finish()
    if stop and run.context.first:
        progress.note(f"a signal asks to stop: writing a checkpoint{saver.expected()}")
    if stop or due:
        logs = [name for name in LOGS if (run.folder / name).exists()]
        train_state.lines = {name: len((run.folder / name).read_text().splitlines()) for name in logs}
        saver.save(engine.state, train_state.step, vars(train_state) | {"order": _identity(run)}, stop or eager)
    if stop:
        if run.context.first:
            progress.note(f"stopped by a signal after step {train_state.step}; the same command resumes from there.")
        run.context.leave()
        sys.exit(0)


def samples_per_step(stage: StageConfig) -> int:
    return stage.images_per_step * stage.expressions_per_image


def _one_step(
    run: Run,
    engine: Engine,
    train_state: TrainState,
    micro_batches: list[MicroBatch],
    logger: MetricsLogger,
    progress: Progress,
) -> dict[str, float]:
    step = train_state.step
    _count_broken(run, train_state, micro_batches, progress)
    if run.stage.loss_normalisation == "tokens":
        _weigh(run, micro_batches)
    try:
        values = engine.step(step, micro_batches)
    except LossError as error:
        raise UserError(_bad_loss(run, str(error), step, error.names)) from None
    names = [name for micro in micro_batches for name in micro.names]
    loss, mean = values["loss"], train_state.mean
    factor = run.train.loss_spike_factor
    if factor and mean is not None and step > run.stage.warmup and loss > factor * max(1, mean):
        everyone = [name for of_process in run.context.gather(names) for name in of_process]
        raise UserError(_bad_loss(run, f"the loss jumped from {mean:.3f} to {loss:.3f}", step, everyone))
    train_state.mean = loss if mean is None else MEAN * mean + (1 - MEAN) * loss
    train_state.step += 1
    logger.speed.count(len(names), sum(micro.tokens for micro in micro_batches))
    return values


def _weigh(run: Run, micro_batches: list[MicroBatch]) -> None:
    """Let each micro-batch count by its learned tokens among those of all processes; on average they count 1."""
    counts = [count for each in run.context.gather([micro.learned for micro in micro_batches]) for count in each]
    for micro in micro_batches:
        micro.weight = micro.learned * len(counts) / max(1, sum(counts))


def _bad_loss(run: Run, what: str, step: int, names: list[str]) -> str:
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"{run.name}: {what} at step {step}; lower lr or look at the samples {shown}."


def _count_broken(run: Run, train_state: TrainState, micro_batches: list[MicroBatch], progress: Progress) -> None:
    """Report images that were replaced, and stop if they are too many."""
    for micro in micro_batches:
        if micro.error:
            raise UserError(f"{run.name}: {micro.error}")
        for sentence in micro.broken:
            progress.note(f"replaced an image: {sentence}")
    train_state.broken += sum(run.context.gather(sum(len(micro.broken) for micro in micro_batches)))
    seen = (train_state.step + 1) * run.stage.images_per_step
    if train_state.broken > run.train.corrupt_ratio * max(SEEN, seen):
        raise UserError(
            f"{run.name}: {train_state.broken} images of {seen} could not be used, more than "
            f"train.corrupt_ratio={run.train.corrupt_ratio}; repair the data named above."
        )


# ---- checkpoints, validation, the end -----------------------------------------------------------------------------


def _resume(run: Run, engine: Engine) -> TrainState:
    """Load the last checkpoint, cut the logs back to it, and return where it stands."""
    found = load_checkpoint(run.folder)
    run.context.wait()  # nobody touches the logs before all have looked
    if found is None:
        for name in (*LOGS, "speed.jsonl", "run-id") if run.context.first else ():
            (run.folder / name).unlink(missing_ok=True)
        return TrainState()
    tensors, state = found
    now = _identity(run)
    order = state.pop("order", now)
    if not isinstance(order, dict):
        raise UserError(f"{run.folder}: the checkpoint does not tell its data; remove the folder to start again.")
    changed = [key for key in now | order if order.get(key) != now.get(key)]
    if changed:
        key = changed[0]
        raise UserError(
            f"{run.folder}: the checkpoint was made with {key} = {order.get(key)}, now it is {now.get(key)}; set it "
            "back, or remove the folder to start again."
        )
    train_state = fill(TrainState, state, f"{run.folder}: the checkpoint", "remove the folder to start again")
    engine.load_state(tensors)
    for name in LOGS if run.context.first else ():
        path = run.folder / name
        if path.exists():  # a log that the checkpoint does not note was born after it
            lines = path.read_text().splitlines(keepends=True)
            with writing(path):
                path.write_text("".join(lines[: train_state.lines.get(name, 0)]))
    return train_state


def _identity(run: Run) -> dict[str, object]:
    """What fixes which samples are in which step; a run may only go on with the same."""
    stage = run.stage
    grouped = {"length_bucketing": stage.length_bucketing, "steps": stage.steps} if stage.length_bucketing > 1 else {}
    return run.order.identity() | grouped


def _validate(run: Run, engine: Engine, step: int, progress: Progress) -> None:
    with engine.whole():
        run.method.eval()
        values = run.validate(run.method)  # by every process: ZeRO 3 gathers a part wherever it is used
        run.method.train()
        if run.context.first:
            line = {"step": step, "samples": step * samples_per_step(run.stage)}
            append(run.folder / "validation.jsonl", line | values)
            progress.note(f"step {step}: " + ", ".join(f"{name} {value:.3f}" for name, value in values.items()))
        run.context.wait()


def _save_model(run: Run, engine: Engine) -> None:
    engine.collect()
    if run.context.first:
        if run.stage.lora:
            merge_adapters(run.method)
        with whole_folder(run.folder / DONE) as draft:
            run.method.save_pretrained(draft)
        clean_up(run.folder)
    run.context.wait()


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
