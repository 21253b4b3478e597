"""How fast a run is: samples and tokens per second, memory, and the share of the device's arithmetic that it uses.

MFU (model FLOPs utilisation) counts what the model needs, not what is computed twice to save memory: the products of
one forward pass are counted as they run, once per start, and each is taken three times (forward, and backward towards
inputs and weights) or once where a module and all in it is frozen.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

# Dense bfloat16 in TFLOP/s, from NVIDIA's data sheets (SXM; the sparse figures are twice these).
PEAK_TFLOPS = {"A100": 312.0, "A800": 312.0, "H100": 989.0, "H800": 989.0, "H200": 989.0}


def peak_flops(device: torch.device) -> float | None:
    """FLOP/s that a device can do at best, None if unknown."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((1e12 * value for key, value in PEAK_TFLOPS.items() if key in name), None)


def memory_gigabytes(device: torch.device) -> float:
    """The largest memory that this process has used so far: the device's, or without one the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class FlopMeter:
    """Counts one forward pass, then estimates by tokens. `peak`: the device's FLOP/s, None: count nothing."""

    def __init__(self, peak: float | None):
        self.peak = peak
        self.per_token: float | None = None

    @contextmanager
    def counting(self, module: nn.Module, tokens: int) -> Iterator[None]:
        """Around a forward pass of `tokens` tokens; only the first is counted."""
        if self.peak is None or self.per_token is not None or not tokens:
            yield
            return
        counter = FlopCounterMode(display=False)
        with counter:
            yield
        counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
        frozen = sum(found for name, found in counts.items() if name in _frozen(module, counts))
        self.per_token = (3 * counter.get_total_flops() - 2 * frozen) / tokens

    def utilisation(self, tokens_per_second: float) -> float | None:
        """MFU in 0..1 of one device, None if it cannot be known."""
        if self.peak is None or self.per_token is None:
            return None
        return tokens_per_second * self.per_token / self.peak


def _frozen(module: nn.Module, counts: dict[str, int]) -> set[str]:
    """The counter's names (class, then path) of the outermost modules that were called and train nothing."""
    chosen: list[str] = []
    by_path = {name.partition(".")[2]: name for name in counts}
    for path, part in module.named_modules():
        parameters = list(part.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            name = next((full for tail, full in by_path.items() if tail == path or tail.endswith(f".{path}")), None)
            if name and path and not any(path.startswith(f"{above}.") for above in chosen):
                chosen.append(path)
    return {full for tail, full in by_path.items() for path in chosen if tail == path or tail.endswith(f".{path}")}


class Speed:
    """Samples and tokens per second since the last reading."""

    def __init__(self) -> None:
        self.since, self.samples, self.tokens = time.monotonic(), 0, 0

    def count(self, samples: int, tokens: int) -> None:
        self.samples += samples
        self.tokens += tokens

    def read(self) -> tuple[float, float]:
        """(samples/s, tokens/s) since the last reading, which starts anew."""
        seconds = max(1e-9, time.monotonic() - self.since)
        found = self.samples / seconds, self.tokens / seconds
        self.since, self.samples, self.tokens = time.monotonic(), 0, 0
        return found
