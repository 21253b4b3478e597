"""The readers of datasets, one file each: a card's `reader` is the name of a file here that names its class `READER`.

A further format is one such file and one card. Files without a `READER` hold what several readers share.
"""

from importlib import import_module
from pkgutil import iter_modules

from bench.data.dataset import Dataset

_MODULES = {module.name: import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)}
READERS: dict[str, type[Dataset]] = {
    name: module.READER for name, module in sorted(_MODULES.items()) if hasattr(module, "READER")
}
