"""Runs of two processes on this machine: every engine and number of processes gives the losses of one process, and a
run resumes after a kill, on another number of processes and with another engine."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

WORKER = Path(__file__).with_name("worker.py")
ROOT = Path(__file__).parents[3]
STAGES = {"himtok": "align", "argenseg": "joint"}
SETTINGS = {
    "images_per_step": 4,
    "expressions_per_image": 2,
    "micro_batch_images": 1,
    "steps": 20,
    "lr": 1e-3,
    "warmup": 2,
}
FEW = {"steps": 12}


@pytest.fixture
def start(tmp_path, backbone_folder):
    """start(processes, run, ...) -> exit codes and what was said; a run is a dict for worker.py."""

    def started(processes: int, *runs: dict) -> tuple[list[int], str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        place = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        place |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(WORKER), str(backbone_folder), json.dumps(runs)]
        members = []
        for rank in range(processes):
            env = os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            with (tmp_path / f"said-{rank}").open("w") as said:
                members.append(subprocess.Popen(command, env=env, cwd=tmp_path, stderr=said, stdout=said))
        try:
            codes = [member.wait(timeout=600) for member in members]
        finally:
            for member in members:
                member.kill()
        return codes, "".join((tmp_path / f"said-{rank}").read_text() for rank in range(processes))

    return started


@pytest.fixture
def run(tmp_path):
    """run(folder, method, zero, ...) -> the description of a run."""

    def described(
        folder: str, method: str = "himtok", zero: int = 0, settings=None, train=None, stage="", **more
    ) -> dict:
        return {
            "folder": str(tmp_path / folder), "method": method, "stage": stage or STAGES[method],
            "settings": SETTINGS | (settings or {}), "train": {"zero": zero} | (train or {}), **more,
        }  # fmt: skip

    return described


def losses(given: dict) -> list[float]:
    return [json.loads(line)["loss"] for line in (Path(given["folder"]) / "train.jsonl").read_text().splitlines()]


def weights(given: dict) -> dict[str, torch.Tensor]:
    return load_file(Path(given["folder"]) / "model" / "model.safetensors")


def assert_alike(given: dict, other: dict, tolerance: float = 1e-4) -> None:
    assert losses(given) == pytest.approx(losses(other), abs=tolerance)
    ours, theirs = weights(given), weights(other)
    # Adam takes whole steps (lr 1e-3) where a gradient is nothing but rounding, as that of a bias before a GroupNorm.
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=3e-3, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.slow
def test_two_processes_train_as_one_and_survive_a_kill(start, run):
    """Plain data parallelism; the second run loses a process in step 6 and resumes from the checkpoint of step 4."""
    few = {"steps": 8}
    alone, together = run("one", settings=few), run("two", settings=few)
    killed = run("killed", settings=few, save=4, kill=6)
    assert start(1, alone)[0] == [0]
    assert start(2, together)[0] == [0, 0]
    assert_alike(together, alone, 1e-5)
    codes, said = start(2, killed)
    assert codes == [2, -9]
    assert "Process 0 of 2 lost another one" in said
    assert start(2, killed)[0] == [0, 0]
    assert_alike(killed, alone, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", list(STAGES))
def test_zero_gives_the_losses_of_one_process(start, run, method):
    alone, shared = run("one", method), [run(f"zero-{stage}", method, stage) for stage in (1, 2, 3)]
    assert start(1, alone)[0] == [0]
    codes, said = start(2, *shared)
    assert codes == [0, 0], said[-3000:]
    for each in shared:
        assert_alike(each, alone)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_a_killed_run_goes_on(start, run, zero):
    """With the same processes; and from ZeRO with two processes to one, without DeepSpeed."""
    alone, moved = run("one", settings=FEW), run("moved", settings=FEW)
    killed = run("killed", zero=zero, settings=FEW, save=5, kill=9)
    assert start(2, killed)[0] == [2, -9]
    assert list(Path(killed["folder"]).glob("checkpoint-*"))
    shutil.copytree(killed["folder"], moved["folder"])
    codes, said = start(2, killed)
    assert codes == [0, 0], said[-3000:]
    codes, said = start(1, alone, moved)
    assert codes == [0], said[-3000:]
    assert_alike(killed, alone)
    assert_alike(moved, alone)


@pytest.mark.slow
def test_zero_on_one_process_offloads_and_checkpoints_activations(start, run):
    alone = run("one", "argenseg")
    given = run("zero", "argenseg", 2, train={"offload": True, "checkpoint_activations": True})
    codes, said = start(1, alone, given)
    assert codes == [0], said[-3000:]
    assert_alike(given, alone)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 2, 3])
def test_stages_of_one_process_leave_no_memory_behind(start, run, zero):
    stages = [run(f"stage-{number}", zero=zero, settings={"steps": 2}, live=True) for number in range(3)]
    codes, said = start(1, *stages)
    assert codes == [0], said[-3000:]
    first, *later = [int((Path(stage["folder"]) / "live").read_text()) for stage in stages]
    assert max(later) < first + 1e5  # the model alone has 5 MB


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 3])
def test_two_processes_validate_as_one(start, run, zero):
    """Every process asks the model, whose parts ZeRO 3 gathers; the first one writes what it found."""
    settings = {"steps": 4, "validate_every": 2}
    alone, shared = (run(name, "argenseg", z, settings, validate=True) for name, z in (("one", 0), ("two", zero)))
    for processes, given in ((1, alone), (2, shared)):
        codes, said = start(processes, given)
        assert codes == [0] * processes, said[-3000:]
    assert_alike(shared, alone)
    found = [(Path(given["folder"]) / "validation.jsonl").read_text().splitlines() for given in (alone, shared)]
    values = [[json.loads(line) for line in lines] for lines in found]
    assert [value["step"] for value in values[1]] == [2, 4]
    for one, two in zip(*values, strict=True):
        assert two == pytest.approx(one, abs=1e-4)


@pytest.mark.slow
def test_a_signal_stops_all_processes_with_a_checkpoint(start, run):
    alone, stopped = run("one", settings=FEW), run("stopped", zero=2, settings=FEW, stop=7)
    assert start(1, alone)[0] == [0]
    codes, said = start(2, stopped)
    assert codes == [0, 0], said[-3000:]
    assert "stopped by a signal after step" in said
    assert not (Path(stopped["folder"]) / "model").exists()
    assert start(2, stopped)[0] == [0, 0]
    assert_alike(stopped, alone)


@pytest.mark.slow
def test_a_bad_loss_of_one_process_ends_all_and_names_its_samples(start, run):
    codes, said = start(2, run("bad", zero=1, nan=3))
    assert codes == [2, 2]
    assert "the loss is nan at step" in said
    assert "squares:" in said
