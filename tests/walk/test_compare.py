"""The walk of compare-8b by its script: every table is there, `--dry-run` finds all, and half of it is told apart."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TASKS = ("(RES)", "(GRES)", "(ReasonSeg)", "(REC)", "(OVS)", "(MaP)")
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """(folder of the walk, what the script printed)."""
    folder = tmp_path_factory.mktemp("walk")
    ended = run(folder)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return folder, ended.stdout


def run(folder, *words):
    env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(HERE / "compare.py"), str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=1200)


@pytest.mark.slow
def test_every_task_has_its_table_and_both_methods(walked):
    folder, said = walked
    results = folder / "results/compare-8b"
    benchmarks = (results / "tables/benchmarks.md").read_text()
    assert all(task in benchmarks and task in said for task in TASKS)
    for method in ("himtok", "argenseg"):
        assert f"| {method} | official | measured here |" in benchmarks
        assert f"| {method} | shared | measured here |" in benchmarks
        assert f"| {method} |" in (results / "tables/latency.md").read_text()
    assert "HiMTok-8B (ft)" in benchmarks and "arXiv 2503.13026" in benchmarks
    assert "Referring segmentation (RES)" in (results / "index.html").read_text()


@pytest.mark.slow
def test_a_dry_run_finds_all_or_tells_what_is_missing(walked):
    folder, _ = walked
    ended = run(folder, "--dry-run", "size=tiny")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("found") >= 28
    shards = sorted((folder / "weights/ARGenSeg-8B").glob("*.safetensors"))
    shards[0].write_text(POINTER)
    shards[1].unlink()
    (folder / "data/refcocog/refs(umd).p").unlink()
    (folder / "data/res/refcoco/refcoco_testA.json").write_text("{")
    next((folder / "data/ADEChallengeData2016/images").rglob("*.jpg")).unlink()
    ended = run(folder, "--dry-run", "size=tiny")
    assert ended.returncode == 2
    assert "5 of 28 things that compare-8b needs are missing or wrong: argenseg (" in ended.stderr
    for place in ("refcoco testA", "refcocog val", "refcocog test", "ade20k-150 val"):
        assert place in ended.stderr
    assert "pointer of Git LFS" in ended.stdout and shards[1].name in ended.stdout
    assert "refcoco_testA.json" in ended.stdout and "1 of 3 images are missing" in ended.stdout
    assert "Traceback" not in ended.stderr
