"""The processes of a run: who I am, how many we are, and the few words that we exchange.

`torchrun` and `deepspeed` tell each process its place through RANK, LOCAL_RANK and WORLD_SIZE, SLURM's `srun` through
variables of its own; without any of them a run is one process, and nothing here touches torch.distributed. torch is
imported where it is used, so that who writes files alone needs none.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from methods.base import UserError

T = TypeVar("T")
BEAT, SILENCE = 5.0, 45.0  # seconds between two signs of life of a process, and until one without any counts as dead
TIMEOUT = timedelta(hours=2)  # rank 0 validates and saves while the others wait
SLURM = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}


@dataclass(frozen=True)
class DistributedContext:
    """Process `rank` of `size`; rank 0 writes files and speaks."""

    rank: int = 0
    size: int = 1
    heartbeat: Heartbeat | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Return when every process has come here."""
        self.gather(None)

    def gather(self, value: T) -> list[T]:
        """The value of every process, in the order of ranks. Raises UserError if a process is gone."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        everyone: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(everyone, value)
        except RuntimeError as error:
            raise lost(self, error) from None
        return everyone

    @contextmanager
    def partners(self) -> Iterator[None]:
        """Within, what fails because another process is gone says so."""
        import torch.distributed as dist

        try:
            yield
        except RuntimeError as error:
            if self.size > 1 and (isinstance(error, dist.DistError) or re.search("gloo|nccl", str(error), re.I)):
                raise lost(self, error) from None
            raise

    def leave(self) -> None:
        """Part when all have come here; else one that ends first can make another abort on a lost connection."""
        if self.size > 1:
            import torch.distributed as dist

            if self.heartbeat:
                self.heartbeat.stop()
            self.wait()
            dist.destroy_process_group()


SINGLE_PROCESS = DistributedContext()


class Heartbeat:
    """Ends this process when another one is dead, whatever it waits for: NCCL tells nobody that a partner is gone, and
    would wait for TIMEOUT. A thread of each process counts upwards in the store that they met through, and looks at the
    others' counts; those who left in peace say so."""

    GONE = "left"

    def __init__(self, store: Any, context: DistributedContext, end: Callable[[UserError], None]):
        """store: with `set(key, text)` and `get(key) -> bytes`. end: called once, from the thread, with what to say."""
        self.store, self.context, self.end = store, context, end
        self.count, self.seen = 0, dict.fromkeys(set(range(context.size)) - {context.rank}, (b"", time.monotonic()))
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)

    def start(self) -> None:
        self.store.set(self._key(self.context.rank), "0")
        self.thread.start()

    def stop(self) -> None:
        """Leave in peace."""
        self.stopped.set()
        self.thread.join()
        self.store.set(self._key(self.context.rank), self.GONE)

    def _key(self, rank: int) -> str:
        return f"alive/{rank}"

    def _beat(self) -> None:
        while not self.stopped.wait(BEAT):
            try:
                silent = self.look()
            except Exception as error:  # the store is gone, and with it the process that keeps it
                silent = [f"the meeting place ({str(error).strip().splitlines()[0][:80]})"]
            if silent and not self.stopped.is_set():
                self.end(lost(self.context, RuntimeError(f"no sign of life of {', '.join(silent)}")))
                return

    def look(self) -> list[str]:
        """Give a sign of life -> the processes that have given none for SILENCE seconds."""
        self.count += 1
        self.store.set(self._key(self.context.rank), str(self.count))
        now = time.monotonic()
        for rank, (count, _) in self.seen.items():
            found = self.store.get(self._key(rank))
            if found != count or found == self.GONE.encode():
                self.seen[rank] = found, now
        return [f"process {rank}" for rank, (_, since) in sorted(self.seen.items()) if now - since > SILENCE]


def lost(context: DistributedContext, error: RuntimeError) -> UserError:
    """The sentence for a process whose partner died; the partner's own output holds the cause."""
    reason = str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
    return UserError(
        f"Process {context.rank} of {context.size} lost another one ({reason}); look for the cause in that process's "
        "output and start again, the run resumes from its last checkpoint."
    )


def join(backend: str = "") -> DistributedContext:
    """This process's place, having met the others if there are any, through torch.distributed's `backend` (by default
    NCCL between GPUs). Raises UserError for an incomplete environment."""
    import torch
    import torch.distributed as dist

    for name, source in SLURM.items():
        if name not in os.environ and os.environ.get("SLURM_STEP_ID") and source in os.environ:
            os.environ[name] = os.environ[source]
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if size == 1:
        return DistributedContext()
    absent = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if absent:
        raise UserError(f"WORLD_SIZE is {size} but {absent[0]} is not set; start with torchrun, deepspeed or srun.")
    if dist.is_initialized():
        return DistributedContext(dist.get_rank(), dist.get_world_size())
    store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
    backend = backend or ("nccl" if torch.cuda.is_available() else "gloo")
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    own = store.clone()  # another connection: the first may wait for hours
    own.set_timeout(timedelta(seconds=SILENCE))
    heartbeat = Heartbeat(own, DistributedContext(rank, size), _end)
    heartbeat.start()
    return DistributedContext(rank, size, heartbeat)


def _end(reason: UserError) -> None:
    """Leave at once, from any thread: the main one may be in a call that never returns."""
    print(reason, file=sys.stderr, flush=True)
    os._exit(2)


def launch_advice(environment: Mapping[str, str], gpus: bool) -> list[str]:
    """What of a launcher's settings, as its environment tells them, would let processes wait for a dead one."""
    advice = []
    if environment.get("SLURM_JOB_ID") and environment.get("SLURM_KILL_BAD_EXIT") != "1":
        advice.append("srun: add --kill-on-bad-exit=1, so that a process that fails ends the others at once")
    if environment.get("SLURM_JOB_ID"):
        advice.append("srun: --signal=TERM@600 leaves ten minutes for a checkpoint before the time limit")
    if environment.get("TORCHELASTIC_RUN_ID"):
        advice.append("torchrun: kills 30 s after SIGTERM; a run says how long its last checkpoint took")
    if gpus and environment.get("TORCH_NCCL_ASYNC_ERROR_HANDLING") == "0":
        advice.append("NCCL: unset TORCH_NCCL_ASYNC_ERROR_HANDLING, or a failed exchange is waited for")
    if gpus and environment.get("TORCH_NCCL_BLOCKING_WAIT") == "1":
        advice.append("NCCL: unset TORCH_NCCL_BLOCKING_WAIT, which keeps products and exchanges from overlapping")
    return advice
