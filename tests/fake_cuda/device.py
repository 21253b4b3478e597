"""The rules of a CUDA device, held over torch's fake tensors.

Every operation passes `FakeCuda`. It refuses operands on different devices, the host's reading of a value or sending of
one within a step of a mask block, and whatever a CUDA graph's capture forbids; and it compares what a graph recorded
with what the same step does later, because a replay repeats the recorded shapes, numbers and addresses.

Numbers: integers, booleans and small floats have values, computed on a CPU beside the fake tensor, so that code which
looks at ids and labels goes its usual way. What nobody knows (it depends on weights) counts as 0. With `values=True`
everything has values: the model then really computes, as if on the device.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from methods.himtok import hierarchy
from methods.internvl.generation import cuda_graphs
from tests.fake_cuda.guard import AVAILABLE, accelerator

__all__ = ["AVAILABLE", "FakeCuda"]

aten = torch.ops.aten
MOST = 2**16  # numbers of a float tensor whose value is kept
TRANSFERS = (aten._to_copy.default, aten.copy_.default, aten._pin_memory.default)
INDEXING = (
    aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default,
    aten._unsafe_index.Tensor, aten._unsafe_index_put.default,
)  # fmt: skip
UNDECIDED = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
FRESH = (torch.Tag.nondeterministic_seeded,)


class Refused(AssertionError):
    """Something that the device cannot do, or must not have to do here."""


class HostRead(Refused):
    """The host waits for the device where it must not."""


class MixedDevices(Refused):
    """An operation on tensors of different devices."""


class StepChanged(Refused):
    """A step is not what was recorded of it."""


class FakeCuda(TorchDispatchMode):
    """Within `on()`, `device="cuda"` works; in `strict` stages nothing may pass between the device and the host.

    reads: (stage, file and line) of each place where the host waited for a value of the device.
    """

    def __init__(self, values: bool = False):
        super().__init__()
        self.values = values
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.stages: list[str] = []
        self.reads: list[tuple[str, str]] = []
        self.capturing: Trace | None = None
        self.recorded = 0

    @contextmanager
    def on(self) -> Iterator[FakeCuda]:
        """Within, there is the device."""
        with ExitStack() as stack, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
            for context in (accelerator(), *self._patches(), self.fake, self):
                stack.enter_context(context)
            yield self

    # ---- stages, captures ---------------------------------------------------------------------------------------

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """For Decoding.watch: the stages of an answer by name, the steps of a mask block as `step NN`."""
        self.stages.append(name)
        try:
            yield
        finally:
            self.stages.pop()

    @property
    def strict(self) -> bool:
        return self.capturing is not None or any(name.startswith("step") for name in self.stages)

    @contextmanager
    def capture(self) -> Iterator[Trace]:
        """What stands for the capture of a CUDA graph."""
        self.capturing = Trace()
        try:
            yield self.capturing
        finally:
            self.capturing = None

    def _patches(self) -> list[Any]:
        stream = SimpleNamespace(wait_stream=lambda other: None)
        device = {
            "synchronize": self._waited, "Stream": lambda: stream, "current_stream": lambda: stream,
            "stream": lambda side: nullcontext(), "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
            "graph": lambda graph: self._kept(graph), "is_bf16_supported": lambda *rest, **words: True,
        }  # fmt: skip
        mode = self

        class Checked(cuda_graphs.Recording):
            """A recording that does its work again at each replay, and compares."""

            def __init__(self, work: Callable[[Tensor], Tensor], inputs: Tensor):
                self.work = work
                super().__init__(work, inputs)

            def __call__(self, inputs: Tensor) -> Tensor:
                super().__call__(inputs)
                with mode.capture() as trace:
                    output = self.work(self.inputs)
                self.graph.trace.compare(trace)
                return output

        return [
            mock.patch.multiple(torch.cuda, **device),
            mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
            mock.patch.object(cuda_graphs, "Recording", Checked),
            mock.patch.object(hierarchy, "blur_matrix", hierarchy.blur_matrix.__wrapped__),  # keeps no fake tensors
            mock.patch.object(FakeTensor, "tolist", lambda tensor: self._read_whole(tensor, Tensor.tolist)),
            mock.patch.object(FakeTensor, "numpy", lambda tensor: self._read_whole(tensor, Tensor.numpy), create=True),
        ]

    def _waited(self, device: Any = None) -> None:
        if self.capturing is not None:
            raise HostRead("torch.cuda.synchronize within a capture")

    @contextmanager
    def _kept(self, graph: SimpleNamespace) -> Iterator[None]:
        with self.capture() as graph.trace:
            yield
        self.recorded += 1

    # ---- values -------------------------------------------------------------------------------------------------

    def _read_whole(self, tensor: FakeTensor, form: Callable[[Tensor], Any]) -> Any:
        if tensor.device.type == "cuda":
            self._read("tolist")
        with _disable_current_modes():
            return form(value_of(tensor).detach().clone())

    def _read(self, what: str) -> None:
        place = _place()
        if self.strict:
            where = self.stages[-1] if self.stages else "a capture"
            raise HostRead(f"{what} at {place} makes the host wait for the device, within {where}.")
        self.reads.append((self.stages[-1] if self.stages else "", place))

    def _fake(self, value: Tensor, device: torch.device) -> Tensor:
        """A fake tensor of a value's shape and type."""
        fresh = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)
        fresh._value = value if self._keeps(value) else None
        return fresh

    def _keeps(self, tensor: Tensor) -> bool:
        return self.values or not tensor.is_floating_point() or tensor.numel() <= MOST

    def _known(self, tensor: Tensor) -> Tensor:
        """An operand as a fake tensor; real ones come from numpy and the like, and are on the CPU."""
        if isinstance(tensor, FakeTensor):
            return tensor
        with _disable_current_modes():
            value = tensor.detach()
        with self.fake:
            return self._fake(value, tensor.device)

    # ---- operations ---------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "prim":  # what a tensor's own device is
            return func(*args, **(kwargs or {}))
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:  # whole under inference_mode, but made of operations that have rules
                parts = func.decompose(*args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
        args, kwargs = tree_map(lambda a: self._known(a) if isinstance(a, Tensor) else a, (args, kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self._check_devices(func, tensors, kwargs)
        if func in INDEXING:
            args = self._by_number(args)
        if any(tag in func.tags for tag in UNDECIDED):
            return self._decided(func, args, kwargs, tensors)
        with self.fake:
            out = func(*args, **kwargs)
        self._give_values(func, args, kwargs, tensors, out)
        if self.capturing is not None:
            self.capturing.add(func, args, kwargs, out)
        return out

    def _check_devices(self, func: Any, tensors: list[Tensor], kwargs: dict[str, Any]) -> None:
        kinds = {tensor.device.type for tensor in tensors}
        to = kwargs.get("device")
        if func in TRANSFERS:
            kinds |= {torch.device(to).type} if to is not None else set()
            if len(kinds) > 1 and "cpu" in kinds and self.strict:
                where = self.stages[-1] if self.stages else "a capture"
                raise HostRead(f"{func} at {_place()} moves data between the host and the device, within {where}.")
            if tensors[0].device.type == "cuda" and "cpu" in kinds and not kwargs.get("non_blocking"):
                self._read(str(func))
        elif {"cpu", "cuda"} <= {tensor.device.type for tensor in tensors if self.capturing or tensor.ndim}:
            shapes = ", ".join(f"{tensor.device.type} {list(tensor.shape)}" for tensor in tensors)
            raise MixedDevices(f"{func} at {_place()} has operands on two devices: {shapes}.")

    def _by_number(self, args: tuple) -> tuple:
        """Boolean indices as the numbers of what they choose, which a device has to count and the host to wait for."""
        numbers: list[Tensor | None] = []
        for index in args[1]:
            if index is None or index.dtype not in (torch.bool, torch.uint8):
                numbers.append(index)
                continue
            if index.device.type == "cuda":
                self._read("a boolean index")
            with _disable_current_modes():
                found = value_of(index).nonzero(as_tuple=True)
            with self.fake:
                numbers += [self._fake(each, index.device) for each in found]
        return (args[0], numbers, *args[2:])

    def _decided(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        """What depends on values: the host reads them."""
        if tensors[0].device.type == "cuda":
            self._read(str(func))
        out = self._computed(func, args, kwargs)
        with self.fake:
            return tree_map(lambda o: self._fake(o, tensors[0].device) if isinstance(o, Tensor) else o, out)

    def _computed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The same operation on the values, on the CPU."""
        args, kwargs = tree_map(lambda a: value_of(a) if isinstance(a, Tensor) else a, (args, kwargs))
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        with _disable_current_modes():
            return func(*args, **kwargs)

    def _give_values(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor], out: Any) -> None:
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        known = all(getattr(tensor, "_value", None) is not None for tensor in tensors)
        random = any(tag in func.tags for tag in FRESH) and not self.values
        if not any(self._keeps(each) for each in outputs):
            return
        changes = [each for each in outputs if any(each is tensor for tensor in tensors)]
        if any(getattr(each, "_value", None) is None for each in changes):
            return
        if (known and not random) or changes:
            found = [leaf for leaf in tree_leaves(self._computed(func, args, kwargs)) if isinstance(leaf, Tensor)]
            for each, value in zip(outputs, found, strict=True):
                each._value = value if self._keeps(each) else None
            return
        for each in outputs:
            if not each.is_floating_point():
                with _disable_current_modes():
                    each._value = torch.zeros(each.shape, dtype=each.dtype, device="cpu")


class Trace:
    """The operations of one capture: names, shapes, types, numbers, and which memory from outside they touch."""

    def __init__(self):
        self.lines: list[tuple[str, Any]] = []
        self._own: dict[int, int] = {}  # storages that the capture allocated, in order
        self._held: list[Any] = []  # so that no address is used twice

    def add(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        entry = str(func), tuple(self._told(leaf) for leaf in tree_leaves((args, kwargs)))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for each in tree_leaves(out):
            if isinstance(each, Tensor) and each.untyped_storage()._cdata not in given:
                self._own.setdefault(each.untyped_storage()._cdata, len(self._own))
                self._held.append(each)
        self.lines.append((entry, tuple(self._told(leaf) for leaf in tree_leaves(out))))

    def _told(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return str(leaf)
        place = leaf.untyped_storage()._cdata
        place = f"allocation {self._own[place]}" if place in self._own else place
        return tuple(leaf.shape), leaf.stride(), leaf.storage_offset(), str(leaf.dtype), place

    def compare(self, later: Trace) -> None:
        """Raises StepChanged at the first operation that is another one now."""
        for number, (recorded, now) in enumerate(zip(self.lines, later.lines, strict=False)):
            if recorded != now:
                raise StepChanged(f"operation {number} was recorded as {recorded} and is now {now}.")
        if len(self.lines) != len(later.lines):
            raise StepChanged(f"{len(self.lines)} operations were recorded, and now there are {len(later.lines)}.")


def value_of(tensor: Tensor) -> Tensor:
    """On the CPU; zeros where nobody knows it."""
    if not isinstance(tensor, FakeTensor):
        return tensor
    value = getattr(tensor, "_value", None)
    if value is None:
        with _disable_current_modes():
            return torch.zeros((), dtype=tensor.dtype, device="cpu").expand(tensor.shape)
    return value


def move(module: nn.Module) -> nn.Module:
    """The same module on the fake device, within FakeCuda: parameters and buffers, nothing else."""
    moved: dict[int, Tensor] = {}
    for part in module.modules():
        for store in (part._parameters, part._buffers):
            for name, tensor in store.items():
                if tensor is None:
                    continue
                if id(tensor) not in moved:
                    with torch.no_grad():
                        fresh = tensor.detach().to("cuda")
                    keeps = isinstance(tensor, nn.Parameter)
                    moved[id(tensor)] = nn.Parameter(fresh, tensor.requires_grad) if keeps else fresh
                    moved[id(tensor)]._value = getattr(fresh, "_value", None)
                store[name] = moved[id(tensor)]
    return module


def _place() -> str:
    """The innermost line of the project's own code."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if ("/methods/" in path or "/bench/" in path) and "/site-packages/" not in path:
            return f"{path.rpartition('/methods/')[2] or path}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"
