"""Seconds per named stage of an answer."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from methods.base import Decoding


class Clock:
    """How finely it measures is said by the Decoding's `timing`: "none" (the device is not waited for, so on a GPU the
    seconds are only the host's), "stages" (the default) or "steps" (each step of a mask block too, as `step NN`)."""

    def __init__(self, device: torch.device | str = "cpu", decoding: Decoding | None = None):
        self.device = torch.device(device)
        self.detail = decoding.timing if decoding else "stages"
        self.watch = (decoding and decoding.watch) or nullcontext
        self.seconds: dict[str, float] = defaultdict(float)
        self.steps = 0

    def _now(self) -> float:
        if self.device.type == "cuda" and self.detail != "none":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = self._now()
        with self.watch(name):
            yield
        self.seconds[name] += self._now() - start

    @contextmanager
    def step(self) -> Iterator[None]:
        """One forward pass of the language model within a mask block."""
        self.steps += 1
        if self.detail != "steps":
            yield
            return
        with self.stage(f"step {self.steps:02d}"):
            yield
