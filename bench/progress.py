"""One status line on stderr: where a run stands, how fast it is, and how long it will still take."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping


class Progress:
    """`with Progress(name, total, first) as p: p.advance({...})`. On a terminal the line is rewritten in place;
    elsewhere (a log file) a line is printed every half minute."""

    def __init__(self, name: str, total: int, first: int = 0):
        self.name, self.total, self.count, self.first = name, total, first, first
        self.live = sys.stderr.isatty()
        self.start = self.shown = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *failure: object) -> None:
        if self.count > self.first and not failure[0]:
            self._show({}, final=True)

    def advance(self, values: Mapping[str, float] | None = None, by: int = 1) -> None:
        self.count += by
        now = time.monotonic()
        if now - self.shown > (0.2 if self.live else 30):
            self.shown = now
            self._show(values or {})

    def note(self, text: str) -> None:
        """A line of its own that stays."""
        print(f"{self._erase()}{self.name}: {text}", file=sys.stderr, flush=True)

    def _erase(self) -> str:
        return "\r\033[K" if self.live else ""

    def _show(self, values: Mapping[str, float], final: bool = False) -> None:
        elapsed = time.monotonic() - self.start
        speed = (self.count - self.first) / max(elapsed, 1e-9)
        left = (self.total - self.count) / max(speed, 1e-9)
        numbers = "  ".join(f"{name.lstrip('_')} {value:.3f}" for name, value in values.items())
        when = f"took {clock(elapsed)}" if final else f"{clock(left)} left"
        line = f"{self.name}: {self.count}/{self.total}  {speed:.3g}/s  {when}  {numbers}".rstrip()
        if self.live:  # a line that wraps could not be rewritten in place
            line = line[: shutil.get_terminal_size().columns - 1]
        end = "\n" if final or not self.live else ""
        print(f"{self._erase()}{line}", end=end, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
