"""Files of tensors: safetensors, and what torch.save writes in its new and its old form; alone or as shards.

The content tells what a file is, not its name. No code of a file is ever run. Tensors are memory-mapped where the form
allows it, so that a conversion needs the memory of one shard. A file that is sound but not to be read here is called
what it is; only one that ends too early or contradicts itself is called damaged.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from methods.base import UserError
from methods.files import fits, printable, read_object, unwritable, whole_folder, write_atomic

CONFIG_FILE, WEIGHTS_FILE, INDEX_FILE = "config.json", "model.safetensors", "model.safetensors.index.json"
FOREIGN_FILE = "pytorch_model.bin"  # the older name; its index ends in .index.json as well
FILES = (".pth", ".pt", ".bin", ".safetensors")  # endings of a file of tensors, as the target of a conversion
SHARD = "2GB"
FETCH = "get the file again"
COPY = "copy it again from where the checkpoint came from"
OUTER = ("model", "state_dict", "model_state_dict", "module")  # keys under which trainers save the weights
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # of torch.compile, FSDP, ...
IN_FRONT = ("module.", "base_model.model.")  # of data parallelism, and of peft after merging
ADAPTER = re.compile(r"(^|\.)(lora_\w+|base_layer|modules_to_save|original_module|vera_\w+|ia3_l)(\.|$)")
GLOBAL = re.compile(r"GLOBAL ([\w.]+)")  # in torch's refusal to build an object
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


# ---- one file -------------------------------------------------------------------------------------------------------


def read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, without outer keys (`model`, `state_dict`, ...) and without the prefixes of wrappers.

    Raises UserError if it is missing, damaged, or holds something else.
    """
    path = Path(path)
    return plain_names(_tensors_of(path), path)


def _tensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors of one file under the names that it has for them."""
    kind = _kind_of(path)
    tensors = _read_safetensors(path) if kind == "safetensors" else _unwrapped(_read_torch(path, kind), path)
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise UserError(f"{path}: {name} is not a plain tensor ({tensor.layout}); save the model in a float type.")
    return tensors


def _kind_of(path: Path) -> str:
    """ "safetensors", "zip" (torch.save's form) or "pickle" (its old one), by the first bytes."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; give a checkpoint's folder or file.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{printable(path)}: cannot be read ({reason}); check the path and its permissions.") from None
    if not head:
        raise UserError(f"{path}: damaged (it is empty); {FETCH}.")
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: a pointer of Git LFS instead of the weights; fetch them with `git lfs pull`.")
    if head.lstrip()[:9].lower() in (b"<!doctype", b"<html>") or head.lstrip()[:5].lower() == b"<html":
        raise UserError(f"{path}: a web page instead of the weights; download the file itself.")
    if head[:2] == b"\x1f\x8b":
        raise UserError(f"{path}: packed with gzip; unpack it first.")
    if head[:4] == b"PK\x03\x04":
        return "zip"
    return "pickle" if head[0] == 0x80 else "safetensors"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as handle:
            return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path}: damaged ({_reason(error)}); {FETCH}.") from None
    except Exception as error:  # a sound header of number types that torch has no name for fails with any
        raise UserError(f"{path}: holds tensors that cannot be read here ({_reason(error)}).") from None


def _read_torch(path: Path, kind: str) -> Any:
    if kind == "zip":
        _check_archive(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # trainers keep their settings in one; inert
            return torch.load(path, map_location="cpu", weights_only=True, mmap=kind == "zip")
    except Exception as error:  # a damaged pickle can fail with any
        found, reason = GLOBAL.search(str(error)), _reason(error)
        if found:
            raise UserError(
                f"{path}: holds a Python object ({found[1]}), which is not loaded because that could run code; "
                "save the state dict alone, torch.save(model.state_dict(), ...)."
            ) from None
        if "magic number" in reason or "persistent_load" in reason:
            raise UserError(f"{path}: a pickle that torch.save did not write; save the state dict with it.") from None
        raise UserError(f"{path}: damaged ({reason}); {FETCH}.") from None


def _check_archive(path: Path) -> None:
    """Raise UserError if a ZIP file is damaged or not one of torch.save."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # damaged archives fail with BadZipFile, OSError, struct.error, ...
        raise UserError(f"{path}: damaged ({_reason(error)}); {FETCH}.") from None
    if any(name.endswith("/constants.pkl") for name in names):
        raise UserError(f"{path}: a TorchScript program; save its state_dict() with torch.save instead.")
    if not any(name.endswith("/data.pkl") for name in names):
        raise UserError(f"{path}: an archive without a state dict; give a file of torch.save or safetensors.")


def _unwrapped(value: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what a trainer saved."""
    for _ in OUTER:
        inner = next((value[key] for key in OUTER if isinstance(value, Mapping) and key in value), None)
        value = inner if isinstance(inner, Mapping) else value
    if not isinstance(value, Mapping) or not value:
        raise UserError(f"{path}: holds {type(value).__name__}, not tensors by name; give the file of a state dict.")
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()):
        raise UserError(f"{path}: holds more than tensors; give the file of a state dict.")
    return {name: tensor.detach() for name, tensor in value.items()}


def plain_names(tensors: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Tensors without the prefixes that wrappers put in front of names. Raises UserError for adapters not merged."""
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if ADAPTER.search(name):
            raise UserError(
                f"{source}: holds adapters that are not merged into the weights ({name}); merge them with peft's "
                "merge_and_unload() and save the model again."
            )
        own = name
        for wrapper in WRAPPERS:
            own = own.replace(wrapper, "")
        while own.startswith(IN_FRONT):
            own = own.removeprefix(next(prefix for prefix in IN_FRONT if own.startswith(prefix)))
        if own in plain:
            raise UserError(f"{source}: holds {own} twice under two names; save the model again.")
        plain[own] = tensor
    return plain


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return printable(lines[0].rstrip(".") if lines else repr(error), 160)


# ---- folders --------------------------------------------------------------------------------------------------------


def read_settings(folder: Path) -> dict[str, Any]:
    """config.json of a folder. Raises UserError if it is missing or damaged."""
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{folder}: {CONFIG_FILE} is missing; give a checkpoint's folder or file.")
    return read_object(path, COPY)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's model.safetensors or pytorch_model.bin, or of the shards that an index names.

    Raises UserError for damaged, missing and foreign files.
    """
    folder = Path(folder)
    placed, files = _files_of(folder)
    tensors: dict[str, Tensor] = {}
    for path in files:
        if not _is_file(path):
            raise UserError(f"{folder}: {printable(path.name, 80)} is missing; give a folder with all its files.")
        found = _tensors_of(path)
        twice = sorted(tensors.keys() & found.keys())
        if twice:
            raise UserError(f"{folder}: {twice[0]} lies in {path.name} and in another file; copy the shards again.")
        tensors |= found
    absent = sorted(set(placed) - set(tensors))
    if absent:
        index = INDEX_FILE if files[0].suffix == ".safetensors" else f"{FOREIGN_FILE}.index.json"
        raise UserError(f"{folder}: {absent[0]} is in {index} but in no file; copy all shards again.")
    return plain_names(tensors, folder)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _files_of(folder: Path) -> tuple[dict[str, str], list[Path]]:
    """(name of each tensor -> file, if there is an index; the files of weights)."""
    for name in (WEIGHTS_FILE, FOREIGN_FILE):
        alone, index = folder / name, folder / f"{name}.index.json"
        if alone.is_file() and index.is_file():
            raise UserError(f"{folder}: holds {name} and an index of shards; remove the one that is not meant.")
        if index.is_file():
            placed = read_object(index, COPY).get("weight_map")
            if not placed or not fits(placed, Mapping[str, str]):
                raise UserError(f"{index}: names no files of weights; {COPY}.")
            return placed, sorted({folder / Path(file).name for file in placed.values()})
        if alone.is_file():
            return {}, [alone]
    if list(folder.glob("adapter_model.*")):
        raise UserError(f"{folder}: holds an adapter alone; merge it into its model (peft) and save the whole.")
    raise UserError(f"{folder}: {WEIGHTS_FILE} is missing; give a folder with all its files of weights.")


def replaced(tensors: Mapping[str, Tensor], prefix: str, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with others under a prefix in place of those that were there."""
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
    return kept | {prefix + name: tensor for name, tensor in others.items()}


# ---- checks ---------------------------------------------------------------------------------------------------------


def check_names(found: Mapping[str, Any], wanted: Mapping[str, Any], source: Any) -> None:
    """Raise UserError naming the first missing or unexpected tensors."""
    for what, names in (("lacks", wanted.keys() - found.keys()), ("has unexpected", found.keys() - wanted.keys())):
        if names:
            raise UserError(f"{source}: {what} {_some(names)}; it is not a checkpoint of this architecture.")


def check_tensors(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: Any) -> None:
    """Raise UserError naming the first tensors that are missing, unexpected, misshapen, of another kind of numbers
    (each as in `wanted`, which may be on the meta device), or not finite."""
    check_names(found, wanted, source)
    for name, model in wanted.items():
        tensor = found[name]
        if tensor.shape != model.shape:
            raise UserError(
                f"{source}: {name} is {list(tensor.shape)}, but must be {list(model.shape)}; it was made for another "
                "configuration."
            )
        if model.is_floating_point() and tensor.dtype not in FLOATS:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{source}: {name} holds {kind}, not float numbers; give weights that are not quantised.")
    broken = sorted(name for name, tensor in found.items() if not _is_finite(tensor))
    if broken:
        raise UserError(f"{source}: {_some(broken)} is not finite (NaN or infinity); take an earlier checkpoint.")


def _is_finite(tensor: Tensor) -> bool:
    return tensor.is_meta or not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _some(names: Any) -> str:
    return ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def sizes_in(tensors: Mapping[str, Tensor], name: str, dimensions: int, source: Any, what: str) -> torch.Size:
    """The shape of a tensor that tells a model's sizes. Raises UserError if it is missing or has other dimensions."""
    if name not in tensors:
        raise UserError(f"{source}: lacks {name}; it is not {what}.")
    found = tensors[name].shape
    if len(found) != dimensions or 0 in found:
        raise UserError(f"{source}: {name} is {list(found)}, but must have {dimensions} dimensions; it is not {what}.")
    return found


def check_places(source: Path, target: Path) -> None:
    """Raise UserError if anything but an empty folder is at `target`, or what is read from `source` would be there."""
    try:
        read, written = source.resolve(), target.resolve()
        taken = os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir()))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{printable(source, 80)} or {printable(target, 80)}: not a usable path ({reason}).") from None
    if read == written or read.parent == written or (written.parent == read and written.exists()):
        raise UserError(f"{target}: writing there would replace what is read from {source}; give another place.")
    if taken:
        raise UserError(f"{target}: is there already, and {source} would replace it; give another place.")


# ---- writing --------------------------------------------------------------------------------------------------------


def write_file(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    """The inverse of read_file, in the form that the file's suffix says."""
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    draft = path.with_name(f".{path.name}.part")  # so that a kill leaves no half of a file under its name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, draft) if path.suffix == ".safetensors" else torch.save(tensors, draft)
        draft.rename(path)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save fails with RuntimeError on a full disk
        draft.unlink(missing_ok=True)
        raise unwritable(path, error) from None
    return path


def write_tensors(folder: Path, tensors: Mapping[str, Tensor], max_shard_size: str) -> None:
    """The inverse of read_tensors: one model.safetensors, or shards of at most `max_shard_size` ("5GB", "15MB") and
    their index."""
    plan = split_torch_state_dict_into_shards(dict(tensors), max_shard_size=max_shard_size)
    for file, names in plan.filename_to_tensors.items():
        write_file(folder / file, {name: tensors[name] for name in names})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_atomic(folder / INDEX_FILE, json.dumps(index, indent=2, sort_keys=True) + "\n")


def write_folder(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], tokenizer: Any, max_shard_size: str = SHARD
) -> Path:
    """Weights in shards, the tokenizer unless it is None, and config.json: a new folder, or what fills an empty one.
    Raises UserError if `folder` holds anything."""
    with whole_folder(folder) as draft:
        write_tensors(draft, tensors, max_shard_size)
        if tokenizer is not None:
            _save_tokenizer(tokenizer, draft)
        write_atomic(draft / CONFIG_FILE, json.dumps(config, indent=2, sort_keys=True) + "\n")
    return folder


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:  # the Rust side of tokenizers raises plain Exception on a full disk
        raise unwritable(folder, error) from None


def renamed(tensors: Mapping[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    """(name without prefix, tensor) of those whose names begin with a prefix."""
    return ((name.removeprefix(prefix), tensor) for name, tensor in tensors.items() if name.startswith(prefix))


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
