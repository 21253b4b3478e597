"""Names of methods. A third method is one folder and one line here."""

from __future__ import annotations

import importlib
from types import ModuleType

from methods.base import Method, UserError

METHODS = {
    "internvl": "methods.internvl.method:InternVLMethod",
    "himtok": "methods.himtok.model:HiMTok",
    "argenseg": "methods.argenseg.model:ARGenSeg",
}


def method_class(name: str) -> type[Method]:
    """The class registered under a name, imported on demand. Raises UserError for an unknown one."""
    if name not in METHODS:
        raise UserError(f"There is no method called {name!r}; choose one of {', '.join(METHODS)}.")
    module, _, attribute = METHODS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def method_module(name: str, part: str) -> ModuleType:
    """One of the files that every method has, e.g. part "parity" (`recognises`, `check`) or "weights" (`convert`)."""
    method_class(name)  # says which names there are
    return importlib.import_module(METHODS[name].partition(":")[0].rpartition(".")[0] + f".{part}")
