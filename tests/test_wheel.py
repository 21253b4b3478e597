"""A wheel, installed beside nothing of the checkout and used from another folder, is the whole program."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOT_SOURCE = shutil.ignore_patterns(".git", ".venv", "__pycache__", "*.egg-info", "build", "dist", "data", "runs")
PACKAGES = {"bench", "methods"}

pytestmark = pytest.mark.slow  # builds a wheel and starts the program three times


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the installed wheel; built from a copy, because setuptools writes into its source."""
    source, site = tmp_path_factory.mktemp("source") / "copy", tmp_path_factory.mktemp("site")
    source.mkdir()
    for name in ("bench", "methods", "datasets", "results"):
        shutil.copytree(ROOT / name, source / name, ignore=NOT_SOURCE if name == "bench" else None)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    pip(["install", "--no-deps", "--no-build-isolation", "--target", str(site), str(source)])
    return site


def pip(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def genseg(site: Path, folder: Path, *words: str) -> str:
    env = os.environ | {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_holds_two_packages_and_what_they_need(site):
    found = {path.name for path in site.iterdir() if path.is_dir() and path.suffix != ".dist-info"}
    assert found - {"bin", "__pycache__"} == PACKAGES  # not `datasets`, which is a package of somebody else's
    carried = site / "bench" / "_assets"
    for name in ("datasets/refcoco.yaml", "datasets/refmoji/lexicon.yaml", "results/published/himtok.csv"):
        assert (carried / name).read_bytes() == (ROOT / name).read_bytes()
    assert {path.name for path in (ROOT / "bench" / "profiles").iterdir()} == {
        path.name for path in (site / "bench" / "profiles").iterdir() if path.suffix == ".yaml"
    }


def test_other_programs_find_its_entry_points(site):
    (file,) = site.glob("genseg_bench-*.dist-info/entry_points.txt")
    assert "[lmms_eval.models]\ngenseg = bench.evaluate.lmms:manifest" in file.read_text()


def test_it_runs_from_another_folder(site, tmp_path):
    assert str(site) in genseg(site, tmp_path, "doctor")
    assert "refmoji" in genseg(site, tmp_path, "data", "list")
    image = site / "bench" / "_assets" / "datasets" / "refmoji" / "example.png"
    told = genseg(site, tmp_path, "segment", str(image), "the cat", "--method", "argenseg", "--out", "overlay.png")
    assert "mask: " in told and (tmp_path / "overlay.png").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["overlay.png"]
