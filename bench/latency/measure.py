"""Latency of single requests: batch 1, the next starts when the last has returned.

The whole request is timed by the host clock with the device synchronised at both ends, from what the request holds, a
path or an opened image, to a mask at the image's size. Stages come from a second pass, because their own
synchronisations would disturb the first.
"""

from __future__ import annotations

import resource
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from bench.progress import Progress
from methods.base import Decoding, Model, Request


def percentile_interval(values: np.ndarray, share: float) -> tuple[float, float]:
    """95 % interval of a percentile by order statistics (binomial, no assumption on the distribution)."""
    ordered = np.sort(values)
    n = len(ordered)
    spread = 1.96 * np.sqrt(n * share * (1 - share))
    low, high = int(np.floor(n * share - spread)), int(np.ceil(n * share + spread))
    return float(ordered[max(0, low)]), float(ordered[min(n - 1, high)])


def measure(
    method: Model, requests: Sequence[Request], warmup: int, name: str, decoding: Decoding
) -> dict[str, np.ndarray]:
    """Seconds of every request: "total" from the first pass, each stage from the second, plus steps and tokens.

    The first `warmup` requests are answered once before, untimed. Steps of a mask block are timed one by one in the
    second pass, as `step NN`.
    """
    device = method.device
    forget_peak(device)
    for request in requests[:warmup]:
        method.segment([request], decoding)
    seen: dict[str, list[float]] = defaultdict(list)
    with Progress(f"latency of {name}", 2 * len(requests)) as progress:
        for request in requests:
            start = now(device)
            method.segment([request], decoding)
            seen["total"].append(now(device) - start)
            progress.advance()
        by_step = replace(decoding, timing="steps")
        for request in requests:
            prediction = method.segment([request], by_step)[0]
            for stage, seconds in prediction.seconds.items():
                seen[stage].append(seconds)
            seen["steps"].append(prediction.steps)
            seen["tokens"].append(len(prediction.token_ids))
            progress.advance()
    # a stage that a request never reached (no mask was written) took no time in it
    return {k: np.array(v + [0.0] * (len(requests) - len(v))) for k, v in seen.items()}


def forget_peak(device: torch.device) -> None:
    """Begin a new count of peak memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # Linux: 5 resets the high-water mark of this process
            Path("/proc/self/clear_refs").write_text("5")


def peak_mebibytes(device: torch.device) -> float:
    """Most memory held since `forget_peak`: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def now(device: torch.device) -> float:
    """Seconds of the host clock, the device having finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
