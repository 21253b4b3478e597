"""A method on disk: config.json, the tokenizer's files, and safetensors with exactly the module's names.

The weights are one model.safetensors or, above a size, shards with an index, as everywhere at Hugging Face.

Loading is strict: config.json is checked field by field and the tensors against the model that it describes, before
anything is built; every tensor of the file is used and every tensor of the model is set, or it is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from transformers.initialization import no_init_weights

from methods.base import UserError
from methods.files import fill, number, quoted
from methods.internvl.backbone import Backbone
from methods.internvl.checkpoint import native
from methods.internvl.checkpoint.io import CONFIG_FILE, COPY, check_tensors, read_settings, read_tensors, write_folder
from methods.internvl.config import ROWS, BackboneSize
from methods.internvl.vocabulary import IMAGE_CONTEXT, load_tokenizer, token_id

if TYPE_CHECKING:
    from methods.internvl.method import InternVLMethod

Config = TypeVar("Config")
Loaded = TypeVar("Loaded", bound="InternVLMethod")
NOT_SAVED = "heads."  # auxiliary read-outs of pretraining


def image_token_id(tokenizer: Any) -> int:
    return token_id(tokenizer, IMAGE_CONTEXT)


# ---- config.json ----------------------------------------------------------------------------------------------------


def describe(method: InternVLMethod) -> dict[str, Any]:
    """The part of config.json that all methods share."""
    backbone = method.backbone
    return {
        "format": native.FORMAT,
        "method": method.name,
        "backbone": asdict(backbone.size) if backbone else None,
        "vocabulary": backbone.vocabulary if backbone else 0,
        "options": asdict(method.options),
    }


def part(config: Mapping[str, Any], name: str, kind: type[Config], folder: Path, needed: bool = True) -> Config:
    """A part of config.json as a dataclass. Raises UserError naming the file and the first field that does not fit."""
    if needed and name not in config:
        raise UserError(f"{folder}/{CONFIG_FILE}: has no {name!r}; {COPY}.")
    return fill(kind, config.get(name, {}), f"{folder}/{CONFIG_FILE}: {name}", COPY)


def choices(config: Mapping[str, Any], kind: type[Config], folder: Path) -> Config:
    """The fields of a dataclass that stand in config.json itself; its defaults for those that do not."""
    found = {each.name: config[each.name] for each in fields(kind) if each.name in config}  # type: ignore[arg-type]
    return fill(kind, found, f"{folder}/{CONFIG_FILE}", COPY)


def options(config: Mapping[str, Any], kind: type[Config], folder: Path) -> Config:
    return part(config, "options", kind, folder)


def empty_backbone(config: Mapping[str, Any], folder: Path) -> tuple[Backbone | None, Any]:
    """A backbone of the described shape, to be filled, and its tokenizer; nothing for a mask tokenizer alone."""
    if config.get("backbone", 0) is None:
        return None, None
    size = part(config, "backbone", BackboneSize, folder)
    rows = number(config.get("vocabulary"), f"{folder}/{CONFIG_FILE}: vocabulary", 1, ROWS, whole=True, repair=COPY)
    tokenizer = load_tokenizer(folder)
    if len(tokenizer) > rows:
        raise UserError(f"{folder}: the tokenizer has {len(tokenizer)} entries, the weights {rows}; copy both again.")
    with no_init_weights():  # billions of random numbers would take minutes
        return Backbone(size, rows, image_token_id(tokenizer)), tokenizer


# ---- folders --------------------------------------------------------------------------------------------------------


def save(method: InternVLMethod, folder: Path, dtype: str, max_shard_size: str) -> None:
    """Write the folder; floating tensors become dtype ("float32", "float16" or "bfloat16")."""
    target = getattr(torch, dtype)
    tensors = {}
    for name, tensor in method.state_dict().items():
        if not name.startswith(NOT_SAVED):
            tensor = tensor.detach().cpu()
            tensors[name] = tensor.to(target) if tensor.is_floating_point() else tensor
    write_folder(folder, method.config(), tensors, method.tokenizer, max_shard_size)


def load(kind: type[Loaded], folder: Path) -> Loaded:
    """The method in a folder. Raises UserError, naming file and field or tensor, for everything that does not fit."""
    config, tensors = checked(kind, folder)
    method = kind.from_config(config, folder)
    method.load_state_dict(tensors)  # copies into float32 tensor by tensor, so that the file need not fit in memory
    return method.eval()


def checked(kind: type[Loaded], folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and the tensors that fit it; before any memory is asked for, because config.json may ask for any
    amount."""
    config, tensors = read(folder, kind.name)
    with torch.device("meta"):
        check_tensors(tensors, kind.from_config(config, folder).state_dict(), folder)
    return config, tensors


def read(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and the tensors of a folder; a plain `internvl` may also be in the two other layouts.

    Raises UserError if it is not one of method `name`.
    """
    config = read_settings(folder)
    if name == native.METHOD and str(config.get("model_type")).startswith("internvl"):
        return native.to_ours(folder, config, load_tokenizer(folder))
    found = config.get("method")
    if found is None:
        raise UserError(f"{folder}: config.json names no method of ours; convert a released model (`genseg convert`).")
    if found != name:
        raise UserError(f"{folder}: holds a {quoted(found)} model, not {name!r}; choose the other method.")
    made = number(config.get("format"), f"{folder}/{CONFIG_FILE}: format", 1, whole=True, repair=COPY)
    if made > native.FORMAT:
        raise UserError(f"{folder}: written by a later version (format {made}); update genseg-bench.")
    return config, read_tensors(folder)
