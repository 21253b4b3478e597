"""The processes of a run: who I am, how many we are, and the few words that we exchange.

`torchrun` and `deepspeed` tell each process its place through RANK, LOCAL_RANK and WORLD_SIZE, SLURM's `srun` through
variables of its own; without any of them a run is one process, and nothing here touches torch.distributed. torch is
imported where it is used, so that who writes files alone needs none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from methods.base import UserError

T = TypeVar("T")
TIMEOUT = timedelta(hours=2)  # rank 0 validates and saves while the others wait
SLURM = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}


@dataclass(frozen=True)
class DistributedContext:
    """Process `rank` of `size`; rank 0 writes files and speaks."""

    rank: int = 0
    size: int = 1

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

            self.wait()
            dist.destroy_process_group()


SINGLE_PROCESS = DistributedContext()


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
    if not dist.is_initialized():
        backend = backend or ("nccl" if torch.cuda.is_available() else "gloo")
        dist.init_process_group(backend, timeout=TIMEOUT)
    return DistributedContext(dist.get_rank(), dist.get_world_size())
