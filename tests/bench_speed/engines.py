"""Speed and peak memory of the engines: `python tests/bench_speed/engines.py` prints a table in some minutes.

Both methods on the backbone of size nano with random weights and 32 thousand vocabulary rows (about 22 million
parameters), float32, one thread a process, gloo between two processes. Processor time is told beside time on the clock,
because other work on the machine changes it less.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[2]
WORKER = ROOT / "tests" / "bench" / "train" / "worker.py"
STAGES = {"himtok": "align", "argenseg": "joint"}
ENGINES = {0: "plain loop", 1: "ZeRO-1", 2: "ZeRO-2", 3: "ZeRO-3"}
WARM_UP, STEPS = 2, 6  # steps that do not count, and steps in all
IMAGES, PER_IMAGE, MICRO_IMAGES = 4, 2, 2


def measure(method: str, processes: int, zero: int) -> tuple[float, float, float]:
    """(samples/s, samples per second of processor time, gigabytes of the first process) of one run."""
    with tempfile.TemporaryDirectory() as folder:
        run = {
            "folder": folder, "method": method, "stage": STAGES[method], "train": {"zero": zero},
            "model": {"vocabulary": 32000},
            "clock": True,
            "settings": {"images_per_step": IMAGES, "expressions_per_image": PER_IMAGE,
                         "micro_batch_images": MICRO_IMAGES, "steps": STEPS, "warmup": 1},
        }  # fmt: skip
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        place = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        place |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(WORKER), "random:nano", json.dumps([run])]
        members = [
            subprocess.Popen(
                command, cwd=folder, env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )
            for rank in range(processes)
        ]  # fmt: skip
        said = [member.communicate()[1] for member in members]
        if any(member.returncode for member in members):
            sys.exit("\n".join(said)[-3000:])
        lines = [json.loads(line) for line in (Path(folder) / "speed.jsonl").read_text().splitlines()]
        spent = sum(_seconds(Path(folder) / f"seconds-{rank}", processes) for rank in range(processes))
    on_clock = median(line["samples/s"] for line in lines[WARM_UP:])
    return on_clock, IMAGES * PER_IMAGE / spent, max(line["GB"] for line in lines)


def _seconds(path: Path, processes: int) -> float:
    """Processor time of one process per step, from its notes at each micro-batch."""
    begun = [float(line) for line in path.read_text().split()][:: IMAGES // MICRO_IMAGES // processes]
    return (begun[-1] - begun[WARM_UP]) / (len(begun) - 1 - WARM_UP)


def main() -> None:
    print("| method | processes | engine | samples per processor second, plain loop 1 | samples/s | GB of a process |")
    print("|---|--:|---|--:|--:|--:|")
    for method in STAGES:
        for processes in (1, 2):
            plain = None
            for zero, name in ENGINES.items():
                on_clock, speed, memory = measure(method, processes, zero)
                plain = plain or speed
                row = (
                    method,
                    processes,
                    name,
                    f"{speed / plain:.2f} ({speed:.2f})",
                    f"{on_clock:.2f}",
                    f"{memory:.2f}",
                )
                print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main()
