"""All of `genseg reproduce profile=compare-8b` on a small machine: tiny checkpoints in the official layouts and small
datasets in the public forms, all made here, evaluated, timed and reported.

    python tests/walk/compare.py FOLDER [key=value ...]

It takes some minutes on two cores. The figures mean nothing, the models were never trained; what can be seen is whether
everything is found, read, asked, scored and shown. FOLDER/results/compare-8b/index.html is the page.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

from checkpoints import write_checkpoints  # noqa: E402
from public_data import write_data  # noqa: E402

SMALL = ("evaluate.precision=float32", "latency.precision=float32", "latency.requests=3", "latency.warmup=1",
         "evaluate.threads=1", "latency.threads=1", "note=random weights")  # fmt: skip


def words(folder: Path) -> list[str]:
    """The settings of the profile for what `write` makes."""
    places = {"weights": "weights", "data.root": "data", "runs": "runs/compare-8b", "results": "results/compare-8b"}
    return ["profile=compare-8b", *(f"{key}={folder / place}" for key, place in places.items()), *SMALL]


def write(folder: Path) -> None:
    """Checkpoints in FOLDER/weights and datasets in FOLDER/data, unless they are there."""
    if not (folder / "weights").exists():
        write_checkpoints(folder / "weights")
    if not (folder / "data").exists():
        write_data(folder / "data")


def genseg(*arguments: str) -> int:
    """Run a command of this checkout; returns its exit code."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", "bench", *arguments], env=env).returncode


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1]).absolute()
    write(folder)
    sys.exit(genseg("reproduce", *words(folder), *sys.argv[2:]))


if __name__ == "__main__":
    main()
