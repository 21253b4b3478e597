"""A method on disk: config.json, the tokenizer's files, and safetensors with exactly the module's names.

The weights are one model.safetensors or, above a size, shards with an index, as everywhere at Hugging Face.

Loading is strict: every tensor of the file is used and every tensor of the model is set, or it is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.initialization import no_init_weights

from methods.base import UserError
from methods.internvl.backbone import Backbone
from methods.internvl.config import BackboneSize
from methods.internvl.vocabulary import IMAGE_CONTEXT, load_tokenizer, token_id
from methods.internvl.weights import read_tensors, write_tensors

if TYPE_CHECKING:
    from methods.internvl.method import InternVLMethod

FORMAT = 1
NOT_SAVED = "heads."  # auxiliary read-outs of pretraining


def image_token_id(tokenizer: Any) -> int:
    return token_id(tokenizer, IMAGE_CONTEXT)


def describe(method: InternVLMethod) -> dict[str, Any]:
    """The part of config.json that all methods share."""
    backbone = method.backbone
    return {
        "format": FORMAT,
        "method": method.name,
        "backbone": asdict(backbone.size) if backbone else None,
        "vocabulary": backbone.vocabulary if backbone else 0,
        "options": asdict(method.options),
    }


def empty_backbone(config: Mapping[str, Any], tokenizer: Any) -> Backbone | None:
    """A backbone of the described shape, to be filled by `load_strictly`."""
    if config["backbone"] is None:
        return None
    with no_init_weights():  # billions of random numbers would take minutes
        return Backbone(BackboneSize(**config["backbone"]), config["vocabulary"], image_token_id(tokenizer))


def save(method: InternVLMethod, folder: Path, dtype: str, max_shard_size: str) -> None:
    """Write the folder; floating tensors become dtype ("float32", "float16" or "bfloat16")."""
    folder.mkdir(parents=True, exist_ok=True)
    target = getattr(torch, dtype)
    tensors = {}
    for name, tensor in method.state_dict().items():
        if not name.startswith(NOT_SAVED):
            tensor = tensor.detach().cpu()
            tensors[name] = tensor.to(target) if tensor.is_floating_point() else tensor
    write_tensors(folder, tensors, max_shard_size)
    if method.tokenizer is not None:
        method.tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(method.config(), indent=2, sort_keys=True) + "\n")


def read(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and the memory-mapped tensors of a folder; a plain `internvl` may also be OpenGVLab's or
    transformers' own (see native.py). Raises UserError if it is not one of method `name`."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: config.json is missing; give the folder of a saved {name} model.")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: damaged checkpoint ({error}); copy or train it again.") from None
    if name == "internvl" and isinstance(config, dict) and str(config.get("model_type")).startswith("internvl"):
        from methods.internvl import native  # here, because it builds on this file

        return native.to_ours(folder, config, load_tokenizer(folder))
    found = config.get("method") if isinstance(config, dict) else None
    if found is None:
        raise UserError(f"{folder}: config.json names no method of ours; convert a released model (`genseg convert`).")
    if found != name:
        raise UserError(f"{folder}: holds a {found!r} model, not {name!r}; choose the other method.")
    return config, read_tensors(folder)


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], source: Path | str) -> None:
    """Copy tensors into a module. Raises UserError naming the first missing, unexpected or misshapen ones."""
    wanted = {name: t.shape for name, t in module.state_dict().items()}
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    wrong = [name for name in wanted if name in tensors and tensors[name].shape != wanted[name]]
    for what, names in (("lacks", missing), ("has unexpected", extra), ("has wrong shapes for", wrong)):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise UserError(f"{source}: the checkpoint {what} {shown}; it was made for another configuration.")
    module.load_state_dict(tensors)  # copies into float32 tensor by tensor, so that the file need not fit in memory
