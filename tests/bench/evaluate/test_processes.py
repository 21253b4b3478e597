"""`genseg eval` in several processes: the bytes of one process, also after a kill and on another number of them."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
    folders = {name: tmp_path / name for name in ("one", "three", "killed")}
    for folder in folders.values():
        folder.mkdir()
    codes, said = ended(begin(1, words, folders["one"]), folders["one"])
    assert codes == [0], said
    expected = written(folders["one"])
    assert len(expected) == 6  # answers, the same refined, and reconstructions; and the scores of each
    codes, said = ended(begin(3, words, folders["three"]), folders["three"])
    assert codes == [0, 0, 0], said
    assert written(folders["three"]) == expected

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
