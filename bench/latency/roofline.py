"""How fast a stage could be on this machine: the floor that bandwidth and arithmetic set, and the share reached.

Floating-point operations and bytes are counted from the shapes of one real request, operation by operation: a matrix
product, convolution or attention counts its multiplications and additions, and reads its weights (or keys and values)
once, in the product's precision. Where autocast converts a weight, both precisions are read or written besides.
Activations are not counted, because they may stay in a cache; so the floor is a lower bound. Bandwidth and matrix rate
are measured on the machine itself. A stage cannot take less than the larger of bytes / bandwidth and operations / rate;
whichever is larger binds it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from methods.base import Decoding, Model, Request
from methods.flops import attention_flops

aten = torch.ops.aten
BIG = {"cuda": (16384, 65536), "cpu": (1536, 8192)}  # sides of the square product, and of the matrix read once
REPEATS = 7


@dataclass
class Work:
    """What a stage has to do at least."""

    flops: float = 0.0
    bytes: float = 0.0


@dataclass(frozen=True)
class Machine:
    """What a device reaches: bytes read per second, and operations per second of a large matrix product."""

    bandwidth: float
    rate: float

    def floor(self, work: Work) -> tuple[float, str]:
        """Seconds that the work takes at least, and what binds: "bandwidth" or "arithmetic"."""
        read, computed = work.bytes / self.bandwidth, work.flops / self.rate
        return max(read, computed), "bandwidth" if read >= computed else "arithmetic"


class Counter(TorchDispatchMode):
    """Adds up, per stage, the work of every operation that is carried out within it.

    A stage's own name is the innermost that is open; a step of a mask block counts for its stage too.
    """

    def __init__(self, weights: set[int]):
        """weights: addresses of the storages that hold parameters and buffers."""
        super().__init__()
        self.weights = weights
        self.copies: dict[int, StorageWeakRef] = {}  # of weights, made by autocast
        self.open: list[str] = []
        self.work: dict[str, Work] = defaultdict(Work)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.open.append(name)
        yield
        self.open.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        attends = "_scaled_dot_product" in str(func)
        if func._overloadpacket not in flop_registry and not attends:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        flops, read = 0.0, 0.0
        if attends:
            q, k, v = tensors[:3]
            flops = attention_flops(q.shape, k.shape, v.shape)
            read = k.numel() * k.element_size() + v.numel() * v.element_size()
        elif func._overloadpacket in flop_registry:
            flops = flop_registry[func._overloadpacket](*args, **kwargs, out_val=out)
            read = sum(t.numel() * t.element_size() for t in tensors if self._is_weight(t))
        elif func is aten._to_copy.default and args[0].is_floating_point() and self._is_weight(args[0]):
            self.copies[out.untyped_storage().data_ptr()] = StorageWeakRef(out.untyped_storage())
            read = args[0].numel() * args[0].element_size() + out.numel() * out.element_size()  # and written
        integers = [t for t in tensors if t.dtype == torch.int8 and self._is_weight(t)]
        if integers:  # copied before a product, or read by it
            read += integers[0].numel()
            flops += 2.0 * tensors[0].numel() * len(integers[0]) if "int8pack_mm" in str(func) else 0.0
        for name in self.open:
            self.work[name].flops += flops
            self.work[name].bytes += read
        return out

    def _is_weight(self, tensor: Tensor) -> bool:
        address = tensor.untyped_storage().data_ptr()
        copy = self.copies.get(address)
        return address in self.weights or (copy is not None and not copy.expired())


def count(method: Model, request: Request, decoding: Decoding) -> dict[str, Work]:
    """The work of each stage, and of each step of a mask block, of one request.

    Within a graph's replay nothing can be counted; its work is the fast backend's."""
    module: Any = method  # concrete methods are torch modules
    weights = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    counter = Counter(weights)
    backend = "fast" if decoding.backend == "cuda_graphs" else decoding.backend
    with counter:
        method.segment([request], replace(decoding, backend=backend, timing="steps", watch=counter.stage))
    return {name: work for name, work in counter.work.items() if work.flops}


def measure_machine(device: torch.device, dtype: torch.dtype) -> Machine:
    """Bandwidth of one matrix-vector product, as decoding does it, and rate of one square matrix product."""
    side, rows = BIG[device.type]
    square = torch.randn(side, side, device=device, dtype=dtype)
    tall = torch.randn(rows, side, device=device, dtype=dtype)
    vector = torch.randn(side, device=device, dtype=dtype)
    rate = 2 * side**3 / _seconds(lambda: square @ square, device)
    return Machine(tall.numel() * tall.element_size() / _seconds(lambda: tall @ vector, device), rate)


def _seconds(work: Callable[[], Tensor], device: torch.device) -> float:
    """Median seconds of a call, the first two left out."""
    times = []
    for _ in range(REPEATS + 2):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - start)
    return median(times[2:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def cost_per_million(seconds: float, price: float) -> float:
    """What a million masks cost, made one after the other on a machine at a price per hour."""
    return 1e6 * seconds / 3600 * price
