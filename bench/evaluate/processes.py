"""Evaluation on a CPU: processes of one thread each, that deal the questions among themselves.

Threads of one process wait for each other at every step of a language model, and lose most where something else runs
on the machine; processes meet only when all is answered. The shares are those of many-GPU evaluation, and so are the
bytes.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import torch

from bench.config import Profile
from bench.distributed import DistributedContext, lost
from methods.base import UserError
from methods.files import printable

T = TypeVar("T")
Share = Callable[[Profile, Mapping[str, Path], DistributedContext], Any]  # what each process does
SPARE = 2 * 2**30  # bytes of memory that a process needs beside its weights


@dataclass(frozen=True)
class PipeContext(DistributedContext):
    """Processes of one machine. pipes: of the first one to each other process, of the others one to the first."""

    pipes: tuple[Connection, ...] = ()

    def gather(self, value: T) -> list[T]:
        try:
            if not self.first:
                self.pipes[0].send(value)
                return self.pipes[0].recv()
            everyone = [value, *(pipe.recv() for pipe in self.pipes)]
            for pipe in self.pipes:
                pipe.send(everyone)
            return everyone
        except (EOFError, OSError):
            raise lost(self, RuntimeError("its pipe was closed")) from None

    @contextmanager
    def partners(self) -> Iterator[None]:
        yield

    def leave(self) -> None:
        self.wait()


@contextmanager
def helped(
    profile: Profile, models: Mapping[str, Path], context: DistributedContext, share: Share
) -> Iterator[DistributedContext]:
    """Within, this process is the first of several, each with one thread, that all do `share`; or what it was, with the
    profile's threads, where it is one of many already, on a GPU, or where there is no room for more."""
    count = 1 if context.size > 1 else _count(profile, models)
    if count == 1:
        torch.set_num_threads(profile.evaluate.threads)
        yield context
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    spawn = multiprocessing.get_context("spawn")
    pairs = [spawn.Pipe() for _ in range(count - 1)]
    helpers = [
        spawn.Process(target=_help, args=(share, profile, models, rank, count, theirs), daemon=True)
        for rank, (_, theirs) in enumerate(pairs, 1)
    ]
    with ExitStack() as end:
        end.callback(torch.set_num_threads, before)
        for helper, (_, theirs) in zip(helpers, pairs, strict=True):
            helper.start()
            theirs.close()  # so that a helper that dies closes the pipe
            end.callback(helper.terminate)
        yield PipeContext(0, count, pipes=tuple(ours for ours, _ in pairs))
        for helper in helpers:
            helper.join()


def _count(profile: Profile, models: Mapping[str, Path]) -> int:
    """How many processes are worth it: as many as threads, if there are so many cores and the memory for the largest
    model in each."""
    if torch.cuda.is_available():
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    needed = SPARE + max(map(_size, models.values()), default=0)
    return max(1, min(profile.evaluate.threads, cores, _memory() // needed))


def _size(folder: Path) -> int:
    """Bytes of a model's files, twice: weights may lie there in half the precision."""
    return 2 * sum(path.stat().st_size for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern))


def _memory() -> int:
    """Bytes that are free; those of the whole machine where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable")))
    except (OSError, StopIteration):
        return total_memory()


def total_memory() -> int:
    """Bytes of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _help(share: Share, profile: Profile, models: Mapping[str, Path], rank: int, size: int, pipe: Connection) -> None:
    """What another process does."""
    torch.set_num_threads(1)
    try:
        share(profile, models, PipeContext(rank, size, pipes=(pipe,)))
    except UserError as error:
        print(f"genseg, process {rank} of {size}: {printable(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
