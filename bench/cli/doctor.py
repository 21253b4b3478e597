"""`genseg doctor`: what this machine has, and what that means for a run."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Sequence

from bench.assets import asset
from bench.cli.words import Commands, add_command, none_left, settings_of

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pillow", "pycocotools", "deepspeed")


def add_to(commands: Commands) -> None:
    add_command(commands, "doctor", "what this machine has and what will run on it", run)


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    none_left(settings_of(words))
    examine()


def examine() -> None:
    """Print versions, devices and the precision that training would use."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from bench.distributed import launch_advice
    from bench.runtime import device_name, device_of, resolve_precision

    device = device_of()
    print(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in PACKAGES:
        try:
            print(f"{name} {version(name)}")
        except PackageNotFoundError:
            print(f"{name} is not installed" + (": pip install -e '.[train]'" if name == "deepspeed" else ""))
    print(f"bundled data: {asset()}")
    print(f"device: {device_name(device)}; {os.cpu_count()} processors")
    if device.type == "cuda":
        print(f"memory: {torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB on the GPU")
    for sentence in launch_advice(os.environ, device.type == "cuda"):
        print(sentence)
    print(f"training precision: {str(resolve_precision('auto', device)).removeprefix('torch.')}")
