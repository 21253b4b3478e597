"""Types of weights while they are made and loaded; and float32 that no setting of the caller coarsens, where a rounding
more or less would choose another id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import backends, nn


@contextmanager
def made_in(dtype: torch.dtype) -> Iterator[None]:
    """Within, floating tensors that name no type are made in this one: a model's weights, without a larger copy."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


_in_files: ContextVar[bool] = ContextVar("in_files", default=False)


@contextmanager
def left_in_files() -> Iterator[None]:
    """Within, the weights of a backbone or model that is loaded stay memory-mapped in its files, in the files' own
    types (but for a mask tokenizer's): for a caller that copies what it needs of them, as training does that shares a
    model out over processes. Those of one machine then hold them once, as pages of the files."""
    token = _in_files.set(True)
    try:
        yield
    finally:
        _in_files.reset(token)


def stay_in_files() -> bool:
    """Whether the caller is within `left_in_files`."""
    return _in_files.get()


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Within, the parameters of modules that are built have shapes alone; buffers are real, as some of them are in no
    file."""
    register = nn.Module.register_parameter

    def without_memory(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            parameter = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = without_memory  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


# Where PyTorch keeps what a float32 product may be rounded to: cuBLAS, cuDNN, and oneDNN on a CPU.
PRODUCTS = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)


@contextmanager
def exactly(device: torch.device) -> Iterator[None]:
    """Within, on that device, float32 stays float32: no autocast, no TF32 and no bfloat16 in its products."""
    products, older = [place.fp32_precision for place in PRODUCTS], _older_settings()
    # The older settings too, because PyTorch refuses to read them where they contradict the newer ones.
    _set_older("highest" if older[0] else None, False if older[1] is not None else None)
    for place in PRODUCTS:
        place.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        _set_older(*older)
        for place, precision in zip(PRODUCTS, products, strict=True):
            place.fp32_precision = precision


def _older_settings() -> tuple[str | None, bool | None]:
    """(precision of matrix products, TF32 of cuDNN), None for one that the newer settings contradict."""
    found: list[Any] = []
    for read in (torch.get_float32_matmul_precision, lambda: backends.cudnn.allow_tf32):
        try:
            found.append(read())
        except RuntimeError:
            found.append(None)
    return found[0], found[1]


def _set_older(products: str | None, convolutions: bool | None) -> None:
    if products is not None:
        torch.set_float32_matmul_precision(products)
    if convolutions is not None:
        backends.cudnn.allow_tf32 = convolutions
