"""What a run tells of itself: train.jsonl (the same bytes however often it was stopped), speed.jsonl (which depends on
the machine and the hour), the status line, and if asked for TensorBoard and Weights & Biases."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.config import TrainConfig
from bench.distributed import DistributedContext
from bench.train.throughput import FlopMeter, Speed, memory_gigabytes
from methods.base import UserError
from methods.files import writing


def append(path: Path, line: Mapping[str, Any]) -> None:
    """One JSON line, floats with six decimals."""
    rounded = {k: round(v, 6) if isinstance(v, float) else v for k, v in line.items()}
    with writing(path), path.open("a") as handle:
        handle.write(json.dumps(rounded) + "\n")


class MetricsLogger:
    """Speed and logs of a run; only the first process writes."""

    def __init__(self, name: str, folder: Path, train: TrainConfig, context: DistributedContext, device: torch.device):
        self.folder, self.context, self.device = folder, context, device
        self.speed = Speed()
        self.latest: dict[str, float] = {}  # the last reading
        self.sinks = []
        if context.first and train.tensorboard:
            self.sinks.append(_tensorboard(folder / "tensorboard"))
        if context.first and train.wandb:
            self.sinks.append(_wandb(train.wandb, name, folder))

    def read_speed(self, meter: FlopMeter) -> dict[str, float]:
        """Samples/s and tokens/s of all processes, MFU where the device's peak is known, gigabytes in use."""
        samples, tokens = self.speed.read()
        values = {"samples/s": samples * self.context.size}
        if tokens:
            values["tokens/s"] = tokens * self.context.size
        share = meter.utilisation(tokens)
        return values | ({"MFU": share} if share is not None else {}) | {"GB": memory_gigabytes(self.device)}

    def log(self, step: int, line: Mapping[str, float], meter: FlopMeter, saving: float = 0.0) -> None:
        """Read the speed, and write it and the values of a step everywhere. saving: see `Saver.share`."""
        self.latest = speed = self.read_speed(meter) | ({"saving": saving} if saving else {})
        if not self.context.first:
            return
        append(self.folder / "train.jsonl", line)
        append(self.folder / "speed.jsonl", {"step": step} | speed)
        for sink in self.sinks:
            sink(step, {**line, **speed})


def run_id(folder: Path) -> str:
    """The name by which a tracker knows the run in a folder: drawn once, kept there, and gone with the folder."""
    path = folder / "run-id"
    if not path.is_file():
        with writing(path):
            path.write_text(uuid.uuid4().hex[:12])
    return path.read_text().strip()


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("train.tensorboard needs TensorBoard; install it with `pip install tensorboard`.") from None
    writer = SummaryWriter(str(folder))

    def write(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return write


def _wandb(project: str, name: str, folder: Path) -> Any:
    try:
        import wandb
    except ImportError:
        raise UserError("train.wandb needs Weights & Biases; install it with `pip install wandb`.") from None
    run = wandb.init(
        project=project, name=f"{folder.parent.name}/{name}", dir=str(folder), id=run_id(folder), resume="allow"
    )
    return lambda step, values: run.log(dict(values), step=step)
