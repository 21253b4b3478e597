"""How fast a run is: samples and tokens per second, memory, and the share of the device's arithmetic that it uses.

MFU (model FLOPs utilisation) counts what the model needs, not what is computed twice to save memory: the products of
one forward pass are counted as they run, once per start, and each is taken three times (forward, and backward towards
inputs and weights). Where a module and all in it is frozen, it is taken twice if gradients pass through, else once.
"""

from __future__ import annotations

import gc
import re
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from bench.runtime import PEAK_TFLOPS
from methods.flops import flop_counter


def peak_flops(device: torch.device) -> float | None:
    """FLOP/s that a device can do at best, None if unknown."""
    if device.type != "cuda":
        return None
    words = re.split(r"\W+", torch.cuda.get_device_name(device))  # "RTX A1000" is no A100
    return next((1e12 * value for key, value in PEAK_TFLOPS.items() if key in words), None)


def reset_peak_memory(device: torch.device) -> None:
    """Give back what earlier stages of this process have left on a GPU, and forget their peak."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def memory_gigabytes(device: torch.device) -> float:
    """The largest memory since then that this process has used of a GPU, or without one ever of the machine."""
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
        spared: list[int] = []
        with flop_counter() as counter, _frozen(module, counter, spared):
            yield
        self.per_token = (3 * counter.get_total_flops() - sum(spared)) / tokens

    def utilisation(self, tokens_per_second: float) -> float | None:
        """MFU in 0..1 of one device, None if it cannot be known."""
        if self.peak is None or self.per_token is None:
            return None
        return tokens_per_second * self.per_token / self.peak


@contextmanager
def _frozen(module: nn.Module, counter: FlopCounterMode, spared: list[int]) -> Iterator[None]:
    """Append what each call of a module without a trained parameter spares the backward pass: its FLOPs, twice where
    its output needs no gradient. Hooks, because the counter's own names depend on how a module was called."""
    begun: list[int] = []

    def enter(part: nn.Module, inputs: Any) -> None:
        begun.append(counter.get_total_flops())

    def leave(part: nn.Module, inputs: Any, output: Any) -> None:
        before = begun.pop()
        if not begun:  # the outermost
            passed = any(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in tree_leaves(output))
            spared.append((1 if passed else 2) * (counter.get_total_flops() - before))

    hooks = []
    for part in module.modules():
        parameters = list(part.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            hooks += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class Speed:
    """Samples and tokens per second since the last reading."""

    def __init__(self) -> None:
        self.since, self.samples, self.tokens = time.monotonic(), 0, 0
        self.total = 0.0  # seconds, at the last reading

    def count(self, samples: int, tokens: int) -> None:
        self.samples += samples
        self.tokens += tokens

    def read(self) -> tuple[float, float]:
        """(samples/s, tokens/s) since the last reading, which starts again."""
        seconds = max(1e-9, time.monotonic() - self.since)
        found = self.samples / seconds, self.tokens / seconds
        self.total += seconds
        self.since, self.samples, self.tokens = time.monotonic(), 0, 0
        return found
