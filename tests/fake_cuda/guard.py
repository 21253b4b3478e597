"""The library that lets a build of torch without CUDA hold tensors of a CUDA device; compiled once for each torch."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths, library_paths

SOURCE = Path(__file__).with_name("guard.cpp")
FLAGS = ("-std=c++20", "-O0", "-w", "-shared", "-fPIC")


def load() -> ctypes.CDLL | None:
    """The loaded library; None where it is not needed (a GPU is there) or cannot be compiled.

    Autograd counts the devices once, at its first backward pass, so this must come before that: at the import of the
    tests that need it.
    """
    if torch.cuda.is_available():
        return None
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None or torch.backends.cuda.is_built():
        return None
    digest = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir(), f"genseg-fake-cuda-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{digest}.so"
    if folder.stat().st_uid != os.getuid() or not (path.exists() or _compiled(compiler, path)):
        return None
    return ctypes.CDLL(str(path))


def _compiled(compiler: str, path: Path) -> bool:
    draft = path.with_suffix(f".{os.getpid()}")  # several test processes may compile at once
    where = [f"-I{each}" for each in include_paths()] + [f"-L{each}" for each in library_paths()]
    done = subprocess.run(
        [compiler, *FLAGS, str(SOURCE), "-o", str(draft), *where, "-lc10", "-ltorch_cpu"], capture_output=True
    )
    if done.returncode == 0:
        draft.replace(path)
    return done.returncode == 0


LIBRARY = load()
AVAILABLE = LIBRARY is not None or torch.cuda.is_available()


@contextmanager
def accelerator() -> Iterator[None]:
    """Within, torch takes itself for a build with one CUDA device."""
    if LIBRARY is None:
        yield
        return
    LIBRARY.exchange_hooks()
    try:
        yield
    finally:
        LIBRARY.exchange_hooks()
