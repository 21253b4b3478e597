"""A method on disk: config.json, the tokenizer's files, and safetensors with exactly the module's names.

The weights are one model.safetensors or, above a size, shards with an index, as everywhere at Hugging Face.

Loading is strict: config.json is checked field by field and the tensors against the model that it describes, before
anything is built; every tensor of the file is used and every tensor of the model is set, or it is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from transformers.initialization import no_init_weights

from methods.base import UserError
from methods.files import fill, number, quoted
from methods.internvl.backbone import Backbone
from methods.internvl.checkpoint import native
from methods.internvl.checkpoint.io import (
    CONFIG_FILE,
    COPY,
    check_tensors,
    read_settings,
    read_tensors,
    under,
    write_folder,
)
from methods.internvl.config import ROWS, BackboneSize
from methods.internvl.vocabulary import IMAGE_CONTEXT, load_tokenizer, token_id
from methods.precision import made_in, parameters_on_meta, stay_in_files
from methods.registry import method_spec, resolve

if TYPE_CHECKING:
    from methods.internvl.model import InternVLModel

Config = TypeVar("Config")
Loaded = TypeVar("Loaded", bound="InternVLModel")
Module = TypeVar("Module", bound=nn.Module)
CPU = torch.device("cpu")
NOT_SAVED = "heads."  # auxiliary read-outs of pretraining


def image_token_id(tokenizer: Any) -> int:
    return token_id(tokenizer, IMAGE_CONTEXT)


# ---- config.json ----------------------------------------------------------------------------------------------------


def describe(model: InternVLModel) -> dict[str, Any]:
    """The part of config.json that the models of all methods share."""
    return {
        "format": native.FORMAT,
        "method": model.name,
        "backbone": asdict(model.backbone.size),
        "vocabulary": model.backbone.vocabulary,
        "processor": asdict(model.processor.config),
    }


def describe_mask_tokenizer(method: str, sizes: Any) -> dict[str, Any]:
    """config.json of a mask tokenizer without a model; sizes: its configuration, a dataclass."""
    return {"format": native.FORMAT, "method": method, "backbone": None, "mask_tokenizer": asdict(sizes)}


def part(config: Mapping[str, Any], name: str, kind: type[Config], folder: Path, needed: bool = True) -> Config:
    """A part of config.json as a dataclass. Raises UserError naming the file and the first field that does not fit."""
    if needed and name not in config:
        raise UserError(f"{folder}/{CONFIG_FILE}: has no {name!r}; {COPY}.")
    return fill(kind, config.get(name, {}), f"{folder}/{CONFIG_FILE}: {name}", COPY)


def choices(config: Mapping[str, Any], kind: type[Config], folder: Path) -> Config:
    """The fields of a dataclass that stand in config.json itself; its defaults for those that do not."""
    found = {each.name: config[each.name] for each in fields(kind) if each.name in config}  # type: ignore[arg-type]
    return fill(kind, found, f"{folder}/{CONFIG_FILE}", COPY)


def empty_backbone(config: Mapping[str, Any], folder: Path) -> tuple[Backbone, Any]:
    """A backbone of the described shape, to be filled, and its tokenizer."""
    if config.get("backbone", 0) is None:
        raise UserError(f"{folder}: a mask tokenizer alone answers nothing; give a whole model's folder.")
    size = part(config, "backbone", BackboneSize, folder)
    rows = number(config.get("vocabulary"), f"{folder}/{CONFIG_FILE}: vocabulary", 1, ROWS, whole=True, repair=COPY)
    tokenizer = load_tokenizer(folder)
    if len(tokenizer) > rows:
        raise UserError(f"{folder}: the tokenizer has {len(tokenizer)} entries, the weights {rows}; copy both again.")
    with no_init_weights():  # billions of random numbers would take minutes
        return Backbone(size, rows, image_token_id(tokenizer)), tokenizer


# ---- folders --------------------------------------------------------------------------------------------------------


def save(trainee: Any, folder: Path, dtype: str, max_shard_size: str) -> None:
    """Write the folder of a model, or of a mask tokenizer in training;
    floating tensors become dtype ("float32", "float16" or "bfloat16")."""
    target = getattr(torch, dtype)
    tensors = {}
    for name, tensor in trainee.state_dict().items():
        if not name.startswith(NOT_SAVED):
            tensor = tensor.detach().cpu()
            tensors[name] = tensor.to(target) if tensor.is_floating_point() else tensor
    tokenizer = getattr(trainee.processor, "tokenizer", None)
    write_folder(folder, trainee.config(), tensors, tokenizer, max_shard_size)


def load(
    kind: type[Loaded], folder: Path, mask_tokenizer: Path | None = None, dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
) -> Loaded:  # fmt: skip
    """The model in a folder, perhaps with the mask tokenizer of an official file; weights in `dtype`, but for the mask
    tokenizer's in float32, and made on the device.

    Raises UserError, naming file and field or tensor, for everything that does not fit."""
    config, tensors = checked(kind, folder, mask_tokenizer)
    _check_room(tensors, dtype, device, folder)
    with made_in(dtype), device:
        model = _filled(lambda: _exact_ids(kind.from_config(config, folder)), tensors)
    return _exact_ids(model).eval()  # again, as weights that stay in their files have those types


def _exact_ids(model: Any) -> Any:
    """The model, with its mask tokenizer's weights in float32: before any are copied into it, none is rounded."""
    if isinstance(model.mask_tokenizer, nn.Module):
        model.mask_tokenizer.float()
    return model


def _filled(build: Callable[[], Module], tensors: Mapping[str, Tensor]) -> Module:
    """A new module with these weights: copied one by one, so that their file need not fit in memory, or left in it."""
    if stay_in_files():
        with parameters_on_meta():
            module = build()
    else:
        module = build()
    module.load_state_dict(tensors, assign=stay_in_files())
    return module


def weight_bytes(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> int:
    """What `load` makes of a folder's tensors, in bytes."""
    floats = {name: tensor.numel() for name, tensor in tensors.items() if tensor.is_floating_point()}
    return sum(count * (4 if name.startswith("mask_tokenizer.") else dtype.itemsize) for name, count in floats.items())


def _check_room(tensors: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device, folder: Path) -> None:
    """Raise UserError if a GPU lacks the memory for the weights."""
    if device.type != "cuda":
        return
    needed, free = weight_bytes(tensors, dtype), torch.cuda.mem_get_info(device)[0]
    if needed > free:
        smaller = " in float32; bfloat16 takes half" if dtype == torch.float32 else ""
        raise UserError(
            f"{folder}: the weights take {needed / 2**30:.1f} GiB{smaller}, and {free / 2**30:.1f} GiB of the GPU's "
            "memory are free; take a smaller model or a larger GPU."
        )


def checked(
    kind: type[Loaded], folder: Path, mask_tokenizer: Path | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and the tensors that fit it; before any memory is asked for, because config.json may ask for any
    amount."""
    config, tensors = read(folder, kind.name, mask_tokenizer)
    with torch.device("meta"):
        check_tensors(tensors, kind.from_config(config, folder).state_dict(), folder)
    return config, tensors


def load_part(folder: Path, method: str, prefix: str, build: Callable[[Mapping[str, Any]], Module]) -> Module:
    """A module of which the tensors of a method's folder begin with `prefix`: the mask tokenizer of a whole model or
    of its own training, or a backbone. build: makes it from config.json."""
    config, tensors = read(folder, method)
    own = under(prefix, tensors)
    with torch.device("meta"):
        check_tensors(own, build(config).state_dict(), folder)
    return _filled(lambda: build(config), own).eval()


def read(folder: Path, name: str, mask_tokenizer: Path | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and the tensors of a folder in our layout or an official one, or of an official file of a mask
    tokenizer alone. mask_tokenizer: an official file whose tensors stand in place of the folder's, which then needs
    none.

    Raises UserError if it is not one of method `name`.
    """
    if folder.is_file():
        return resolve(method_spec(name).official)(folder, {}, None)
    config = read_settings(folder)
    found = config.get("method")
    if found is None and str(config.get("model_type")).startswith("internvl"):
        return resolve(method_spec(name).official)(folder, config, mask_tokenizer)
    if mask_tokenizer is not None:
        raise UserError(f"{folder}: already has the mask tokenizer that it was made with; give no other one.")
    if found is None:
        raise UserError(f"{folder}: config.json names no method and no InternVL; give a checkpoint's folder.")
    if found != name:
        raise UserError(f"{folder}: holds a {quoted(found)} model, not {name!r}; choose the other method.")
    made = number(config.get("format"), f"{folder}/{CONFIG_FILE}: format", 1, whole=True, repair=COPY)
    if made > native.FORMAT:
        raise UserError(f"{folder}: written by a later version (format {made}); update genseg-bench.")
    if made < native.FORMAT:
        raise UserError(
            f"{folder}: written by an earlier version (format {made}), whose names this one no longer reads; convert "
            "the original checkpoint again, or train the stage again."
        )
    return config, read_tensors(folder)
