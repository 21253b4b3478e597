"""`genseg eval` in several processes: the bytes of one process, also after a kill and on another number of them."""

import os
import signal
import socket
import subprocess
import sys
import time
from multiprocessing import Pipe
from pathlib import Path
from threading import Thread

import pytest

from bench.config import Profile
from bench.distributed import SINGLE_PROCESS
from bench.evaluate import processes
from bench.evaluate.processes import PipeContext, helped
from methods.base import UserError

ROOT = Path(__file__).parents[3]


def begin(processes: int, words: list[str], folder: Path) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    place |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    members = []
    for rank in range(processes):
        env = os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        with (folder / f"said-{rank}").open("w") as said:
            members.append(subprocess.Popen([sys.executable, "-m", "bench", *words], env=env, cwd=folder,
                                            stdout=said, stderr=said))  # fmt: skip
    return members


def ended(members: list[subprocess.Popen], folder: Path) -> tuple[list[int], str]:
    try:
        codes = [member.wait(timeout=300) for member in members]
    finally:
        for member in members:
            member.kill()
    return codes, "".join((folder / f"said-{rank}").read_text() for rank in range(len(members)))


def written(folder: Path) -> dict[str, bytes]:
    """The content of all predictions, scores and records; dates of records aside."""
    return {str(path.relative_to(folder)): path.read_bytes() for kind in ("predictions", "scores")
            for path in sorted(folder.rglob(f"{kind}/*.jsonl"))}  # fmt: skip


@pytest.mark.slow
def test_many_processes_killed_or_not_write_what_one_writes(build, writing, random_sam, easy_root, tmp_path):
    model = tmp_path / "model"
    random_sam().save_pretrained(tmp_path / "sam")
    writing(build("himtok")).save_pretrained(model)
    words = ["eval", f"checkpoint={model}", "dataset=refmoji", f"root={easy_root}", "split=val", "limit=24", "batch=4",
             "evaluate.threads=1", f"refine={tmp_path / 'sam'}"]  # fmt: skip
    folders = {name: tmp_path / name for name in ("one", "three", "killed", "helped")}
    for folder in folders.values():
        folder.mkdir()
    two_threads = [word.replace("threads=1", "threads=2") for word in words]
    codes, said = ended(begin(1, words, folders["one"]), folders["one"])
    assert codes == [0], said
    expected = written(folders["one"])
    assert len(expected) == 8  # answers, the same refined, and two bounds; and the scores of each
    codes, said = ended(begin(3, words, folders["three"]), folders["three"])
    assert codes == [0, 0, 0], said
    assert written(folders["three"]) == expected

    codes, said = ended(begin(1, two_threads, folders["helped"]), folders["helped"])
    assert codes == [0], said
    assert "1 of 2 shares" in said and "time of the first process: " in said
    assert written(folders["helped"]) == expected

    members = begin(2, words, folders["killed"])
    deadline = time.monotonic() + 200
    while not list(folders["killed"].rglob("*.part*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    members[1].send_signal(signal.SIGKILL)
    codes, said = ended(members, folders["killed"])
    assert codes[0] == 2, said
    assert "lost another one" in said
    codes, said = ended(begin(3, words, folders["killed"]), folders["killed"])
    assert codes == [0, 0, 0], said
    assert written(folders["killed"]) == expected


def test_processes_meet_through_pipes():
    pairs = [Pipe() for _ in range(2)]
    first = PipeContext(0, 3, pipes=tuple(ours for ours, _ in pairs))
    others = [PipeContext(rank, 3, pipes=(theirs,)) for rank, (_, theirs) in enumerate(pairs, 1)]
    found = {}
    threads = [Thread(target=lambda c=c: found.update({c.rank: c.gather(f"of {c.rank}")})) for c in others]
    for thread in threads:
        thread.start()
    found[0] = first.gather("of 0")
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(3), ["of 0", "of 1", "of 2"])


def test_a_process_that_is_gone_is_told():
    ours, theirs = Pipe()
    theirs.close()
    with pytest.raises(UserError, match="Process 0 of 2 lost another one"):
        PipeContext(0, 2, pipes=(ours,)).wait()


@pytest.mark.parametrize(
    ("threads", "cores", "gigabytes", "count"),
    [(1, 8, 64, 1), (4, 2, 64, 2), (4, 8, 64, 4), (4, 8, 5, 2), (4, 8, 1, 1)],
)
def test_as_many_processes_as_threads_where_cores_and_memory_are(
    tmp_path, monkeypatch, threads, cores, gigabytes, count
):
    monkeypatch.setattr(processes.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(processes, "_memory", lambda: gigabytes * 2**30)
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    profile = Profile(name="some")
    profile.evaluate.threads = threads
    assert processes._count(profile, {"himtok": tmp_path}) == count


def test_one_of_many_processes_starts_no_more():
    context = PipeContext(1, 2)
    with helped(Profile(name="some"), {}, context, print) as own:
        assert own is context
    profile = Profile(name="some")
    profile.evaluate.threads = 1
    with helped(profile, {}, SINGLE_PROCESS, print) as own:
        assert own is SINGLE_PROCESS
