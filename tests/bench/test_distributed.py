"""Processes that meet, tell that they live, and do not wait for the dead."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench import distributed
from bench.distributed import BEAT, SILENCE, DistributedContext, Heartbeat, launch_advice

ROOT = Path(__file__).parents[2]


class Store(dict):
    def set(self, key: str, text: str) -> None:
        self[key] = text.encode()

    def get(self, key: str) -> bytes:
        return self[key]


@pytest.fixture
def three(monkeypatch):
    """(heartbeats of three processes on one store, [the time])."""
    now, store = [0.0], Store()
    monkeypatch.setattr(distributed.time, "monotonic", lambda: now[0])
    beats = [Heartbeat(store, DistributedContext(rank, 3), pytest.fail) for rank in range(3)]
    for beat in beats:
        store.set(f"alive/{beat.context.rank}", "0")
    return beats, now


def test_who_beats_is_alive(three):
    beats, now = three
    for _ in range(100):
        now[0] += BEAT
        assert [beat.look() for beat in beats] == [[], [], []]


def test_who_is_silent_counts_as_dead_within_a_minute(three):
    beats, now = three
    assert [beat.look() for beat in beats] == [[], [], []]
    while now[0] < 60 - BEAT:
        now[0] += BEAT
        found = [beat.look() for beat in beats[:2]]
        assert found == [[], []] or now[0] > SILENCE
    assert found == [["process 2"]] * 2


def test_who_has_left_in_peace_is_not_missed(three):
    beats, now = three
    beats[2].thread.start()
    beats[2].stop()
    for _ in range(100):
        now[0] += BEAT
        assert [beat.look() for beat in beats[:2]] == [[], []]


@pytest.mark.parametrize("gone", ["process", "store"])
def test_the_thread_ends_the_process_with_a_sentence(monkeypatch, gone):
    monkeypatch.setattr(distributed, "BEAT", 0.01)
    monkeypatch.setattr(distributed, "SILENCE", 0.05)
    store, said, ended = Store({"alive/1": b"7"}), [], threading.Event()

    def lost(key: str) -> bytes:
        raise RuntimeError("Connection reset by peer")

    if gone == "store":
        store.get = lost
    beat = Heartbeat(store, DistributedContext(0, 2), lambda reason: (said.append(str(reason)), ended.set()))
    beat.start()
    assert ended.wait(20)
    missed = "process 1" if gone == "process" else "the meeting place (Connection reset by peer)"
    assert len(said) == 1
    assert said[0].startswith(f"Process 0 of 2 lost another one (no sign of life of {missed})")


WAITING = """
import os, signal, sys, time
from bench.distributed import join
context = join("gloo")
print("met", flush=True)
if context.rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(600)  # as in an exchange of NCCL's, which does not notice
"""


@pytest.mark.slow
def test_a_process_that_dies_ends_all_within_a_minute(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": str(ROOT)}
    members = [
        subprocess.Popen(
            [sys.executable, "-c", WAITING], env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(3)
    ]  # fmt: skip
    try:
        assert members[1].wait(timeout=200) == -signal.SIGKILL
        died = time.monotonic()
        said = [member.communicate(timeout=100)[1] for member in (members[0], members[2])]
        assert time.monotonic() - died < 60
        assert [member.returncode for member in members] == [2, -signal.SIGKILL, 2]
        assert any("no sign of life of process 1" in text for text in said)
    finally:
        for member in members:
            member.kill()


def test_a_launcher_s_settings_are_looked_at():
    assert launch_advice({}, gpus=True) == []
    slurm = launch_advice({"SLURM_JOB_ID": "7"}, gpus=False)
    assert "--kill-on-bad-exit=1" in slurm[0]
    assert len(launch_advice({"SLURM_JOB_ID": "7", "SLURM_KILL_BAD_EXIT": "1"}, gpus=False)) == len(slurm) - 1
    assert "30 s after SIGTERM" in launch_advice({"TORCHELASTIC_RUN_ID": "x"}, gpus=False)[0]
    waits = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0", "TORCH_NCCL_BLOCKING_WAIT": "1"}
    assert len(launch_advice(waits, gpus=True)) == 2 and not launch_advice(waits, gpus=False)
