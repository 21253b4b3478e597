"""What an evaluation will take, before a model is loaded: gigabytes and hours of a GPU. Estimates, not measurements.

The model's own modules run on torch's fake tensors (see methods/internvl/cost.py), with random weights of the
checkpoint's size. Assumed are TEXT tokens of a question and WORDS written around each mask, TILES of an image on
average and MOST_TILES at most, a mask in every answer, and that a GPU reaches MFU of its arithmetic and BANDWIDTH of
its memory's speed. CUDA itself and fragmentation take OVERHEAD bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.config import EvaluateConfig
from bench.runtime import PEAK_TFLOPS
from methods.base import UserError
from methods.common.cost import AnsweringCost, Load
from methods.registry import backbone_size_of, method_class, method_spec, resolve

BYTES_PER_SECOND = {"A100": 2.0e12, "H100": 3.35e12, "H200": 4.8e12}  # NVIDIA's data sheets (SXM, A100 with 80 GB)
TEXT, WORDS, TILES, MOST_TILES = 100, 16, 2, 5
MFU, BANDWIDTH = 0.4, 0.3
OVERHEAD = 1e9
WORTH_A_LOOK = 4e9  # bytes of weights below which any GPU will do
FEW, MANY = 16, 64  # questions at once where nothing is known, and beyond which measured models gained nothing
PARTS = 8  # batches that a file is at least made of, for processes to share
ASSUMED = (
    f"{TEXT} tokens of text and {TILES} tiles a question ({MOST_TILES} for the memory), a mask and {WORDS} words an "
    f"answer, {MFU:.0%} of a GPU's arithmetic and {BANDWIDTH:.0%} of its bandwidth"
)


@dataclass(frozen=True)
class Estimate:
    """Of one method. batch: questions that are answered at once; weights, memory: bytes on one GPU."""

    batch: int
    usual: AnsweringCost
    weights: float
    memory: float

    def seconds(self, gpu: str) -> float:
        """Of one question on a GPU of BYTES_PER_SECOND."""
        computed = self.usual.flops / (PEAK_TFLOPS[gpu] * 1e12 * MFU)
        read = (self.usual.steps + WORDS) * self.usual.streamed / (BYTES_PER_SECOND[gpu] * BANDWIDTH)
        return (computed + read) / self.batch


def estimate(method: str, size: str, settings: EvaluateConfig) -> Estimate | None:
    """For a backbone of a named size; None if the method does not declare its cost, or no size is known."""
    declared = method_spec(method).answering
    if declared is None or not size:
        return None
    precision = torch.float32 if settings.precision == "float32" else torch.bfloat16
    batch, costs = settings.batch or FEW, []
    for tiles in (TILES, MOST_TILES):
        with FakeTensorMode(), torch.no_grad():
            model = method_class(method).build({"backbone": f"random:{size}"}, lambda: ())
            load = Load(batch, batch, TEXT, WORDS, batch, tiles)
            costs.append(resolve(declared)(model, load, precision))
    usual, largest = costs
    memory = largest.weights + largest.cache + largest.activations + OVERHEAD
    return Estimate(batch, usual, largest.weights, memory)


def size_of_model(folder: Path, otherwise: str) -> str:
    """The named size of a checkpoint's backbone; of one that is not there what is given."""
    return backbone_size_of(folder) if (folder / "config.json").is_file() else otherwise


def check_room(method: str, folder: Path, settings: EvaluateConfig, free: float) -> Estimate | None:
    """The estimate, for models that are large enough to matter. Raises UserError with the numbers if a GPU that has
    `free` bytes is too small: nothing is moved to the CPU's memory."""
    if not _large(folder):
        return None
    found = estimate(method, size_of_model(folder, ""), settings)
    if found is not None and found.memory > free:
        repair = "evaluate.precision=bfloat16" if settings.precision == "float32" else "a smaller evaluate.batch"
        raise UserError(
            f"{folder}: about {found.memory / 1e9:.1f} GB are needed ({found.weights / 1e9:.1f} GB of them weights, "
            f"{found.batch} questions at a time), and {free / 1e9:.1f} GB of the GPU are free; give {repair} or "
            "another GPU, because nothing is moved to the CPU's memory."
        )
    return found


def batch_that_fits(method: str, folder: Path, settings: EvaluateConfig, memory: float) -> int:
    """How many questions a device of `memory` bytes answers at once where `settings.batch` leaves it open: a power of
    two of at most MANY. 0 for a model so small that any number fits, or of which no cost is known.

    It is the device's whole memory, not what is free of it just now, so that all processes and a run that is resumed
    come to the same."""
    if not _large(folder):
        return 0
    size = size_of_model(folder, "")
    costs = [estimate(method, size, replace(settings, batch=batch)) for batch in (1, 2)]
    memory_of = [cost.memory for cost in costs if cost is not None]
    if len(memory_of) < 2:
        return 0
    one, two = memory_of
    return next((batch for batch in _halves(MANY) if one + (batch - 1) * (two - one) <= memory), 1)


def batch_of(settings: EvaluateConfig, questions: int) -> int:
    """How many of a file's questions are answered at once: as set, or MANY of them, but FEW for a small file, so that
    several processes have a part of it each."""
    return settings.batch or max(FEW, min(MANY, -(-questions // PARTS)))


def _halves(number: int) -> list[int]:
    return [number >> power for power in range(number.bit_length())]


def _large(folder: Path) -> bool:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) >= WORTH_A_LOOK
