"""Peak memory of a process that trains, and what checkpoints cost: `python tests/bench_speed/memory.py` takes minutes.

A backbone of 290 million parameters in a file of bfloat16 is trained to write boxes for STEPS steps, by one process
without ZeRO and by four with ZeRO 3 (gloo, one thread each). Loading counts. Of each process the largest resident
memory is told, and the largest without pages of files, which the processes of a machine share and the system takes back
when it needs room. `--precision bfloat16` is for machines whose processors have such units.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
STEPS = 4
SIZE = {"text_width": 1024, "text_layers": 18, "text_heads": 16, "text_kv_heads": 4, "text_mlp": 4096}


def make(folder: Path, size: dict[str, int]) -> int:
    """Write a model with random weights -> its parameters."""
    from methods.internvl.backbone import Backbone
    from methods.registry import method_class
    from tests.conftest import CORPUS

    model = method_class("boxes").build({"size": "tiny", "vocabulary": 512}, lambda: CORPUS)
    old = model.backbone
    model.backbone = Backbone(replace(old.size, **size), old.vocabulary, old.image_token_id)
    model.save_pretrained(folder, "bfloat16")
    return sum(p.numel() for p in model.parameters())


def train(folder: Path, precision: str, zero: int) -> None:
    """One process of a run."""
    import torch

    from bench.config import StageConfig, TrainConfig
    from bench.data.sampler import MixtureComponent, Sampler
    from bench.distributed import join
    from bench.train.loop import Run, run_stage
    from methods.precision import left_in_files
    from methods.registry import method_class
    from tests.conftest import Squares

    context = join()
    if zero:
        with left_in_files():
            method = method_class("boxes").from_pretrained(folder / "start")
    else:
        method = method_class("boxes").from_pretrained(folder / "start")
    stage = StageConfig(
        method="boxes", stage="pretrain", steps=STEPS, images_per_step=4, expressions_per_image=1,
        micro_batch_images=1, lr=1e-5, warmup=1,
    )  # fmt: skip
    order = Sampler([MixtureComponent({"box": Squares(4)}, {"box": 1.0})], 4, 1, 0)
    config = TrainConfig(threads=1, precision=precision, log_every=1, zero=zero, save_minutes=1 / 60)
    run_stage(Run("memory", folder / "run", method, order, stage, config, None, context), torch.device("cpu"))
    context.leave()
    os._exit(0)


def watched(members: list[subprocess.Popen]) -> list[tuple[float, float]]:
    """(resident, without pages of files) gigabytes of each process at most, until all have ended."""
    processes = [psutil.Process(member.pid) for member in members]
    most = [(0.0, 0.0)] * len(members)
    while any(member.poll() is None for member in members):
        for place, process in enumerate(processes):
            try:
                memory = process.memory_info()
            except psutil.Error:
                continue
            most[place] = max(most[place][0], memory.rss / 1e9), max(most[place][1], (memory.rss - memory.shared) / 1e9)
        time.sleep(0.05)
    return most


def measure(folder: Path, processes: int, zero: int, precision: str) -> None:
    """Run, and print a row."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    place |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, __file__, "--child", str(folder), "--precision", precision, "--zero", str(zero)]
    members = [
        subprocess.Popen(command, env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(processes)
    ]
    most = watched(members)
    if any(member.returncode for member in members):
        sys.exit(f"a process ended with {[member.returncode for member in members]}")
    lines = [json.loads(line) for line in (folder / "run" / "speed.jsonl").read_text().splitlines()]
    saving = max(line.get("saving", 0) for line in lines)
    rss, own = (", ".join(f"{each[i]:.2f}" for each in most) for i in (0, 1))
    print(f"| {processes} | {zero or 'plain'} | {precision} | {rss} | {own} | {saving:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--child")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--zero", type=int, default=3)
    parser.add_argument("--layers", type=int, default=SIZE["text_layers"])
    options = parser.parse_args()
    if options.child:
        train(Path(options.child), options.precision, options.zero)
    for processes, zero in ((1, 0), (4, options.zero)):
        with tempfile.TemporaryDirectory() as folder:
            count = make(Path(folder) / "start", SIZE | {"text_layers": options.layers})
            if not zero:
                print(f"{count / 1e6:.0f} million parameters, {STEPS} steps\n")
                print("| processes | ZeRO | precision | GB of each process | without files | saving |")
                print("|--:|--:|---|---|---|--:|")
            measure(Path(folder), processes, zero, options.precision)


if __name__ == "__main__":
    main()
