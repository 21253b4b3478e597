"""A run that is killed at any moment of writing a checkpoint resumes from that one or from the one before, ends with
the bytes of a run that was left alone, and leaves nothing behind.

Moments are Python's audit events about a checkpoint's files (made, opened, renamed, removed), and four places within
the writing of the tensors. Each run is a fork of the test's process, which is killed by SIGKILL.
"""

import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from bench.train import checkpoints as files
from bench.train.loop import run_stage
from tests.bench.train.test_loop import content, make  # noqa: F401 (fixtures)

PIECES = 4
EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "test.wrote")


def in_pieces(tensors, path) -> None:
    """`save_file` with moments between."""
    from safetensors.torch import save

    whole = save(tensors)
    with Path(path).open("wb") as handle:
        for number in range(PIECES):
            handle.write(whole[number * len(whole) // PIECES : (number + 1) * len(whole) // PIECES])
            handle.flush()
            sys.audit("test.wrote", str(path))


def forked(work) -> int:
    """Run in a child -> its exit status, below 0 for a signal."""
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killing(run, moment: int) -> None:
    """Train with a checkpoint after every step; die at a moment of writing the second one."""
    files.save_file, seen = in_pieces, [0]
    second = f"checkpoint-{2:08d}"

    def watch(event, args) -> None:
        if event in EVENTS and (seen[0] or second in str(args[0])) and "checkpoint-" in str(args[0]):
            seen[0] += 1
            if seen[0] == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    run.train.save_minutes = 0
    run_stage(run, torch.device("cpu"))


@pytest.mark.slow
def test_at_twenty_moments(make):  # noqa: F811
    few = {"steps": 3, "validate_every": 0}
    run_stage(make("boxes", "pretrain", "whole", **few), torch.device("cpu"))
    whole = content(make("boxes", "pretrain", "whole", **few).folder)
    found = set()
    for moment in range(1, 21):
        folder = f"killed-{moment}"
        assert forked(lambda f=folder, m=moment: killing(make("boxes", "pretrain", f, **few), m)) == -signal.SIGKILL
        run = make("boxes", "pretrain", folder, **few)
        found.add(tuple(sorted(path.name for path in run.folder.iterdir() if "checkpoint-" in path.name)))
        run_stage(run, torch.device("cpu"))
        assert content(run.folder) == whole, moment
        assert not [path for path in run.folder.iterdir() if "checkpoint" in path.name]
    assert len(found) > 3  # half written, both, renamed, half removed
