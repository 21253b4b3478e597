"""How far a run is, how fast, and how long it will still take: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from bench.terminal import cell
from methods.files import printable

EVERY = 30.0  # seconds between two lines in a log


class Progress:
    """`with Progress(name, total, first) as p: p.advance({...})`, on stderr. A run that failed, did nothing or is quiet
    ends without a last line."""

    def __init__(self, name: str, total: int, first: int = 0, quiet: bool = False):
        self.name, self.total, self.count, self.first, self.quiet = name, total, first, first, quiet
        self.start = self.shown = time.monotonic()
        self.bar: Bar | None = None
        if sys.stderr.isatty() and not quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                       TextColumn("{task.fields[values]}"))  # fmt: skip
            self.bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self.task = self.bar.add_task(cell(name), total=total, completed=first, values="")

    def __enter__(self) -> Progress:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *failure: object) -> None:
        if self.bar:
            self.bar.stop()
        if self.count > self.first and not failure[0] and not self.quiet:
            self._print({}, final=True)

    def advance(self, values: Mapping[str, float] | None = None, by: int = 1) -> None:
        """Note that `by` more are done; values: figures to be shown beside."""
        self.count += by
        if self.bar:
            self.bar.update(self.task, completed=self.count, values=cell(_figures(values or {})))
        elif time.monotonic() - self.shown > EVERY and not self.quiet:
            self.shown = time.monotonic()
            self._print(values or {})

    def note(self, text: str) -> None:
        """A line of its own that stays."""
        if self.bar:
            self.bar.console.print(cell(f"{self.name}: {text}"), highlight=False, soft_wrap=True)
        else:
            print(printable(f"{self.name}: {text}"), file=sys.stderr, flush=True)

    def _print(self, values: Mapping[str, float], final: bool = False) -> None:
        elapsed = time.monotonic() - self.start
        speed = (self.count - self.first) / max(elapsed, 1e-9)
        left = (self.total - self.count) / max(speed, 1e-9)
        when = f"took {clock(elapsed)}" if final else f"{clock(left)} left"
        line = f"{self.name}: {self.count}/{self.total}  {speed:.3g}/s  {when}  {_figures(values)}"
        print(printable(line.rstrip()), file=sys.stderr, flush=True)


def _figures(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name.lstrip('_')} {value:.3f}" for name, value in values.items())


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
