"""What a run stands on: device, precision, the digest of its weights, and what every record says about them."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from bench.config import Profile
from methods.base import Model, UserError
from methods.registry import method_class

# Dense bfloat16 in TFLOP/s, from NVIDIA's data sheets (SXM; the sparse figures are twice these).
PEAK_TFLOPS = {"A100": 312.0, "A800": 312.0, "H100": 989.0, "H800": 989.0, "H200": 989.0}
PACKAGES = ("torch", "transformers")  # whose versions records tell


def device_of(name: str = "auto") -> torch.device:
    """The device to run on: the first GPU if there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's with its number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {torch.get_num_threads()} threads"


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The same batch with its tensors on a device."""
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}


def fast_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 faster than float32."""
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)  # as every CPU with AMX has it
    return device.type == "cuda" or known()


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """ "auto" is bfloat16 where the device multiplies it faster than float32, else float32."""
    if name == "auto":
        return torch.bfloat16 if fast_bfloat16(device) else torch.float32
    if name not in ("float32", "bfloat16"):
        raise UserError(f"There is no precision {name!r}; choose auto, float32 or bfloat16.")
    return getattr(torch, name)


def digest(folder: Path, mask_tokenizer: Path | None = None) -> str:
    """Short SHA-256 over a model's weights and configuration, however the weights are cut into files, and over the file
    that stands in place of its mask tokenizer."""
    total, where = hashlib.sha256(), {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as handle:
            where |= dict.fromkeys(handle.keys(), path)
    for name, path in sorted(where.items()):
        with safe_open(path, "pt") as handle:
            tensor = handle.get_tensor(name)
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy())
    older = () if where else sorted(folder.glob("*.bin"))
    for path in (*older, folder / "config.json", *filter(None, [mask_tokenizer])):
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest() if path in older else file.read())
    return total.hexdigest()[:16]


def digest_of_files(place: Path) -> str:
    """Short SHA-256 over a file, or over the files of a folder with their names."""
    total = hashlib.sha256()
    for path in [place] if place.is_file() else sorted(path for path in place.iterdir() if path.is_file()):
        total.update(b"" if path == place else path.name.encode())
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


def size_of(folder: Path) -> str:
    """The number of a model's parameters, as "8.7B", by the headers of its files; "" if they do not tell."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as handle:
            total += sum(math.prod(handle.get_slice(name).get_shape()) for name in handle.keys())  # noqa: SIM118
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if total >= unit:
            return f"{total / unit:.1f}{letter}"
    return str(total or "")


def load_model(
    name: str, folder: Path, precision: str, mask_tokenizer: Path | None = None, device: str = "auto"
) -> Model:
    """A method's model on the device, to answer with. Its weights are in the precision that a profile names, but for
    the mask tokenizer's, so that no step converts them (see methods.base.Trainee.from_pretrained)."""
    place = device_of(device)
    dtype = str(resolve_precision(precision, place)).removeprefix("torch.")
    return method_class(name).from_pretrained(folder, mask_tokenizer, dtype, str(place))


def answering_in(method: Model, precision: torch.dtype) -> AbstractContextManager:
    """A context in which a model answers in the precision: autocast, for one whose weights are in float32."""
    if precision == torch.float32:
        return nullcontext()
    module: Any = method  # concrete methods are torch modules
    converted = next(module.parameters()).dtype == precision
    return nullcontext() if converted else torch.autocast(method.device.type, precision)


def provenance(profile: Profile, name: str, weights: str, precision: str, method: Model) -> dict[str, Any]:
    """The fields of a record that are the same for all figures of one model."""
    used = str(resolve_precision(precision, method.device)).removeprefix("torch.")
    return {"backbone": profile.name} | origin(name, weights, used, method.device)


def origin(name: str, weights: str, precision: str, device: torch.device) -> dict[str, Any]:
    """The same for a part of a model, whose precision is known."""
    return {
        "method": name,
        "checkpoint": weights,
        "device": device_name(device),
        "precision": precision,
        "versions": {package: version(package) for package in PACKAGES},
        "revision": version("genseg-bench"),
        "date": date.today().isoformat(),
    }
