"""When checkpoints of a run are written, and what they cost it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.config import TrainConfig
from bench.distributed import DistributedContext
from bench.train.checkpoints import Draft, Shard

GRACE = 30  # seconds between SIGTERM and SIGKILL, by default of torchrun and of SLURM (KillWait)


class Saver:
    """Writes a checkpoint `save_minutes` after the last one, and later if checkpoints would hold up training for more
    than `save_share` of the time. Only the copy to the CPU's memory does so; threads write it, and one checkpoint is on
    the disk before the next is begun. `save_minutes=0` writes one after every step and waits for it."""

    def __init__(self, folder: Path, train: TrainConfig, context: DistributedContext):
        self.folder, self.train, self.context = folder, train, context
        self.since, self.blocked = time.monotonic(), 0.0  # of the last checkpoint: when, and the seconds it held up
        self.seconds = 0.0  # until the last one was on the disk
        self.begun, self.lost = time.monotonic(), 0.0  # the start; seconds since then that training was held up
        self.draft: Draft | None = None

    @property
    def eager(self) -> bool:
        """Whether each step has to wait for its checkpoint."""
        return not self.train.save_minutes

    def due(self) -> bool:
        wait = 60 * self.train.save_minutes
        if self.draft is not None:
            return False
        return time.monotonic() - self.since > (max(wait, self.blocked / self.train.save_share) if wait else 0)

    def written(self) -> bool:
        """Whether this process has written its part of a checkpoint that is not finished."""
        return self.draft is not None and self.draft.written

    def save(self, shard: Callable[[], Shard | None], step: int, state: dict[str, Any], wait: bool) -> None:
        """Begin a checkpoint, on all processes; wait: until it is on the disk."""
        self.finish()
        begun = time.monotonic()
        self.draft = Draft(self.folder, step, shard(), state, self.context)
        if wait:
            self.finish()
            self.seconds = time.monotonic() - begun
        self.since = time.monotonic()
        self.blocked = self.since - begun
        self.lost += self.blocked

    def finish(self) -> None:
        """Wait for the checkpoint that is being written, if there is one, on all processes."""
        if self.draft is not None:
            draft, self.draft = self.draft, None
            draft.finish()
            self.seconds = draft.seconds

    def share(self) -> float:
        """Of the time since the start, how much checkpoints have held training up."""
        return self.lost / max(1e-9, time.monotonic() - self.begun)

    def close(self) -> None:
        """Wait for this process's thread, whatever has ended the run."""
        if self.draft is not None:
            self.draft.join()

    def expected(self) -> str:
        """What is said of the time that one takes, as far as this start has written one."""
        if not self.seconds:
            return "; how long that takes is not known, as this start has not written one yet."
        enough = "" if self.seconds < GRACE / 2 else "; raise the time between SIGTERM and SIGKILL if it is shorter"
        return f", which took {self.seconds:.1f} s the last time (torchrun and SLURM kill after {GRACE} s){enough}."
