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
from bench.runtime import device_name
from bench.train.throughput import FlopMeter, Speed, memory_gigabytes
from methods.base import UserError
from methods.files import read_lines, writing


def append(path: Path, line: Mapping[str, Any]) -> None:
    """One JSON line, floats with six decimals."""
    rounded = {k: round(v, 6) if isinstance(v, float) else v for k, v in line.items()}
    with writing(path), path.open("a") as handle:
        handle.write(json.dumps(rounded) + "\n")


def _seconds_logged(path: Path) -> float:
    """The seconds in the last line of a log of speed, from which half a line of a killed run is cut; 0 without one."""
    text = path.read_text() if path.is_file() else ""
    if not text.endswith("\n") and text:
        with writing(path):
            path.write_text(text[: text.rfind("\n") + 1])
    rows = read_lines(path) if text else []
    return float(rows[-1][1].get("seconds", 0)) if rows else 0.0


class MetricsLogger:
    """Speed and logs of a run; only the first process writes."""

    def __init__(self, name: str, folder: Path, train: TrainConfig, context: DistributedContext, device: torch.device):
        self.folder, self.context, self.device = folder, context, device
        self.speed = Speed()
        self.latest: dict[str, float] = {}  # the last reading
        # wall-clock time of runs that were stopped
        self.before = _seconds_logged(folder / "speed.jsonl") if context.first else 0.0
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
        spent = {"seconds": self.before + self.speed.total, "samples": line["samples"]}
        machine = {"processes": self.context.size, "device": device_name(self.device)}
        append(self.folder / "speed.jsonl", {"step": step} | spent | speed | machine)
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
