"""Official checkpoints <-> ours, for methods with a mask tokenizer: what a method says of its own tensors, put to use.

Official forms: the mask tokenizer alone (one `.pth` or `.safetensors` file), or the whole model (a folder in
InternVL2.5's original layout in which the mask tokenizer's tensors have a prefix). Every tensor is used and keeps its
dtype and bits; a missing, unexpected or misshapen one is an error that names it. Files are memory-mapped, so that a
conversion needs the memory of one shard, not of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from methods.internvl.checkpoint import io
from methods.internvl.vocabulary import load_tokenizer

TOKENIZER, BACKBONE = "mask_tokenizer.", "backbone.native."  # prefixes of our tensors
Ours = tuple[dict[str, Any], dict[str, Tensor]]  # config.json and tensors


@dataclass(frozen=True)
class Conversion:
    """The conversion of one method's checkpoints.

    method: its name in our config.json. prefix: of the mask tokenizer's tensors in an official model. The others are
    functions: an official mask tokenizer (tensors, source) and model (tensors, source, text tokenizer) -> ours; and one
    of our folders (source, config.json, target) -> the official file or folder it wrote.
    """

    method: str
    prefix: str
    tokenizer_to_ours: Callable[[Mapping[str, Tensor], Path], Ours]
    model_to_ours: Callable[[Mapping[str, Tensor], Path, Any], Ours]
    to_official: Callable[[Path, dict[str, Any], Path], Path]

    def convert(self, source: Path, target: Path) -> Path:
        """Official -> ours or back, by what `source` is -> the file or folder written.

        An official file or folder becomes our folder `target`. Our folder becomes an official folder, or the mask
        tokenizer's file alone if `target` ends in .pth or .safetensors. Raises UserError for damaged or unfitting
        input.
        """
        source, target = Path(source), Path(target)
        io.check_places(source, target)
        if source.is_file():
            return io.write_folder(target, *self.tokenizer_to_ours(io.read_file(source), source), None)
        config = io.read_settings(source)
        if config.get("method") == self.method:
            return self.to_official(source, config, target)
        tokenizer = load_tokenizer(source)
        return io.write_folder(target, *self.model_to_ours(io.read_tensors(source), source, tokenizer), tokenizer)

    def official(self, source: Path, settings: Mapping[str, Any], mask_tokenizer: Path | None = None) -> Ours:
        """MethodSpec.official: an official folder (or the file of a mask tokenizer alone) read without a conversion."""
        if source.is_file():
            return self.tokenizer_to_ours(io.read_file(source), source)
        tensors = io.read_tensors(source)
        if mask_tokenizer is not None:
            other = io.read_file(mask_tokenizer)
            self.tokenizer_to_ours(other, mask_tokenizer)  # refuses what is none under the file's own name
            tensors = io.replaced(tensors, self.prefix, other)
        return self.model_to_ours(tensors, source, load_tokenizer(source))


def table(tensors: Iterable[str], prefix: str = "") -> dict[str, str]:
    """Official name -> ours, of every tensor of a mask tokenizer whose names are the same on both sides."""
    return {prefix + name: TOKENIZER + name for name in tensors}


def count(tensors: Mapping[str, Tensor], before: str, after: str) -> int:
    """How many numbers from 0 on stand between `before` and `after` in the names of tensors."""
    return next(i for i in range(len(tensors) + 1) if f"{before}{i}{after}" not in tensors)
