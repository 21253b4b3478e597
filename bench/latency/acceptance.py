"""Whether a GPU does what this project promises: `genseg gpu-check`.

Every check is a number against a bound: the tests that need a GPU, the same mask tokens on every backend, a loss that
falls, and the share of the floor that the steps of a mask reach. A check that passed is not made again on the same
device with the same settings and versions; times are records in the results folder, as `genseg latency` writes them.
"""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.config import Profile, StageConfig
from bench.evaluate.predictions import stamp_of
from bench.latency import untrained
from bench.latency.measure import forget_peak, now, peak_mebibytes
from bench.latency.run import time_untrained
from bench.records import Record
from bench.runtime import PACKAGES, device_name, resolve_precision
from bench.train.batches import MicroBatch
from bench.train.engine import LocalEngine
from bench.train.freezing import enter
from methods.base import Example, Processor, UserError
from methods.files import read_lines, write_lines
from methods.registry import method_class

TESTS = Path(__file__).parents[2] / "tests"  # not in an installed package
BACKENDS = ("fast", "cuda_graphs", "official")
QUESTIONS = 2  # whose mask tokens are compared
STEPS = 3  # of training, on the same batch


@dataclass(frozen=True)
class Verdict:
    """state: "pass", "fail" or "left out"; told: the number behind it, or why there is none."""

    check: str
    state: str
    told: str


class TimeIsUp(Exception):
    """The budget ends within a check."""


Work = Callable[[float], tuple[bool, str]]  # seconds left -> whether it passed, and the number


def accept(profile: Profile, device: torch.device, budget: float, share: float) -> Iterator[Verdict]:
    """The checks one by one, as they are made, in at most `budget` seconds (an operation of the device is never
    cut off). share: of the floor, that the steps of a mask must reach on the faster backend.

    Raises UserError for a profile without architectures of random weights.
    """
    if not (profile.latency.sizes and profile.latency.untrained):
        raise UserError(f"Profile {profile.name} has no latency.sizes and latency.untrained to check a GPU with.")
    torch.set_num_threads(profile.latency.threads)
    path, end = profile.results_dir / "gpu-check.jsonl", time.monotonic() + budget
    stamp = _stamp(profile, device, share)
    passed = {row["check"]: row for _, row in read_lines(path) if row["stamp"] == stamp} if path.exists() else {}
    for check, work in _checks(profile, device, share).items():
        if check in passed:
            yield Verdict(check, "pass", f"{passed[check]['told']} (found before)")
            continue
        left = end - time.monotonic()
        try:
            with _limited(left):
                right, told = work(left)
            verdict = Verdict(check, "pass" if right else "fail", told)
        except TimeIsUp:
            verdict = Verdict(check, "left out", f"it did not fit into {budget:g} s; run the command again")
        except torch.OutOfMemoryError:
            verdict = Verdict(check, "fail", f"it does not fit in the memory of {device_name(device)}")
        if verdict.state == "pass":
            passed[check] = {"check": check, "told": verdict.told, "stamp": stamp}
            write_lines(path, passed.values())
        yield verdict


def _stamp(profile: Profile, device: torch.device, share: float) -> str:
    versions = [version(name) for name in (*PACKAGES, "genseg-bench")]
    parts = asdict(profile.latency), {name: asdict(stage) for name, stage in profile.stages.items()}
    return stamp_of(parts=parts, share=share, device=device_name(device), versions=versions)


def _checks(profile: Profile, device: torch.device, share: float) -> dict[str, Work]:
    """By name, what says most in least time first."""
    checks: dict[str, Work] = {}
    if device.type == "cuda" and TESTS.is_dir():
        checks["tests marked gpu"] = _tests
    for size in profile.latency.sizes:
        checks[f"equal mask tokens, {size}"] = lambda left, size=size: _parity(profile, size, device)
    for name, stage in profile.stages.items():
        checks[f"training, {name}"] = lambda left, stage=stage: _training(profile, stage, device)
    for size in profile.latency.sizes:
        checks[f"latency, {size}"] = lambda left, size=size: _latency(profile, size, device, share)
    return checks


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise TimeIsUp within, when so many seconds are over."""

    def stop(number: int, frame: object) -> None:
        raise TimeIsUp

    if seconds <= 0:
        raise TimeIsUp
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _tests(left: float) -> tuple[bool, str]:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", str(TESTS)]
    try:
        done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, timeout=left)
    except subprocess.TimeoutExpired:
        raise TimeIsUp from None
    said = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["nothing was said"]
    return done.returncode == 0, said[-1].strip("= ")


def _parity(profile: Profile, size: str, device: torch.device) -> tuple[bool, str]:
    """In float32, where another order of sums decides only ties."""
    found = []
    for name, entry in profile.latency.untrained.items():
        method = untrained.build(entry, size, device, torch.float32)
        requests = untrained.requests_of(untrained.Case(size, name, 1, None), QUESTIONS)
        found.append((name, untrained.same_answers(method, requests, BACKENDS)))
        del method
    told = ", ".join(f"{name} {share:.0%}" for name, share in found)
    return all(share == 1 for _, share in found), f"{told} of {QUESTIONS} answers alike on {', '.join(BACKENDS)}"


def _training(profile: Profile, stage: StageConfig, device: torch.device) -> tuple[bool, str]:
    """Some steps on one batch of noise."""
    forget_peak(device)
    with device:
        method = method_class(stage.method).build(stage.model, lambda: ())
    method = method.to(device)
    enter(method, stage, profile.train)
    engine = LocalEngine(method.train(), stage, resolve_precision(profile.train.precision, device), device)
    batch = _noise(method.processor, stage)
    losses, times = [], []
    for number in range(STEPS):
        start = now(device)
        copies = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
        losses.append(engine.step(number, [MicroBatch(copies, 0, ["noise"], batch["ids"].numel())])["loss"])
        times.append(now(device) - start)
    engine.close()
    falls = all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    told = f"loss {losses[0]:.3f} to {losses[-1]:.3f} in {STEPS} steps of one batch, {min(times):.3g} s a step"
    return falls, f"{told}, {peak_mebibytes(device) / 1024:.1f} GiB"


def _noise(processor: Processor, stage: StageConfig) -> dict[str, Any]:
    """A batch of noise images with a rectangle as the mask of each."""
    rng = np.random.default_rng(stage.seed)
    samples = []
    for number in range(stage.images_per_step):
        image = Image.fromarray(rng.integers(0, 255, (untrained.TILE, untrained.TILE, 3), np.uint8))
        mask = np.zeros((untrained.TILE, untrained.TILE), bool)
        mask[64 : 128 + 32 * number, 96:300] = True
        example = Example(image, (untrained.PHRASES[number % len(untrained.PHRASES)],), mask, ref_id=number)
        samples.append(processor.prepare(example, next(iter(stage.tasks)), rng))
    return processor.collate(samples)


def _latency(profile: Profile, size: str, device: torch.device, share: float) -> tuple[bool, str]:
    config = replace(profile.latency, sizes=[size])
    records = time_untrained(replace(profile, latency=config), device)
    told, reached = [], []
    for name, entry in config.untrained.items():
        shares = []
        for backend in config.backends:
            own = [r for r in records if r.method == entry.method and r.backend == backend]
            value = {(r.stage, r.metric): r.value for r in own}
            shares.append(value["mask", "floor_ms"] / value["mask", "median_ms"])
            total = value["total", "median_ms"]
            told.append(f"{name} {backend} {total:.1f} ms, mask at {shares[-1]:.0%} of its floor")
        reached.append(max(shares))
    return min(reached) >= share, f"{'; '.join(told)}; {share:.0%} of the floor asked for; {_machine(records)}"


def _machine(records: Sequence[Record]) -> str:
    value = {record.metric: record.value for record in records}
    return f"{value['bandwidth_gb_s']:.0f} GB/s, {value['rate_tflop_s']:.3g} TFLOP/s measured"
