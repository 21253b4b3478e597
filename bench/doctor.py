"""`genseg doctor`: what this machine has, and what that means for a run."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from bench.pipeline import device_name, device_of
from bench.runtime import resolve_precision

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pillow", "pycocotools", "deepspeed")


def examine() -> None:
    """Print versions, devices and the precision that training would use."""
    device = device_of()
    print(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in PACKAGES:
        try:
            print(f"{name} {version(name)}")
        except PackageNotFoundError:
            print(f"{name} is not installed" + (": pip install -e '.[train]'" if name == "deepspeed" else ""))
    print(f"device: {device_name(device)}; {os.cpu_count()} processors")
    if device.type == "cuda":
        print(f"memory: {torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB on the GPU")
    print(f"training precision: {str(resolve_precision('auto', device)).removeprefix('torch.')}")
