"""What reading and writing the methods' released checkpoints has in common: files, folders, shapes and config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from methods.base import UserError
from methods.internvl.config import BackboneSize
from methods.internvl.weights import check_names, write_tensors

SYSTEM = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
FILES = (".pth", ".pt", ".bin", ".safetensors")
SHARD = "2GB"


def read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, memory-mapped, without an outer key `model` and the prefix `module.`.

    Raises UserError if it is damaged or holds more than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as handle:
                tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            tensors = tensors.get("model", tensors)
    except (SafetensorError, OSError, RuntimeError, UnpicklingError, EOFError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise UserError(f"{path}: damaged ({reason}); download the file again.") from None
    if not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise UserError(f"{path}: holds more than tensors; give the file of a state dict.")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def check_places(source: Path, target: Path) -> None:
    """Raise UserError if writing `target` would replace what is read from `source`, or another checkpoint."""
    read, written = source.resolve(), target.resolve()
    if read == written or read.parent == written or (written.parent == read and written.exists()):
        raise UserError(f"{target}: writing there would replace what is read from {source}; give another place.")
    if target.is_file() or (target / "config.json").exists():  # which is written last
        raise UserError(f"{target}: holds a checkpoint already, which {source} would replace; give another place.")


def write_file(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    """The inverse of read_file, in the form that the file's suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    return path


def read_settings(folder: Path) -> dict[str, Any]:
    """config.json of a folder. Raises UserError if it is missing or damaged."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; give a checkpoint's folder or file.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); copy the checkpoint again.") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: holds no settings; copy the checkpoint again.")
    return config


def write_folder(folder: Path, config: dict[str, Any], tensors: Mapping[str, Tensor], tokenizer: Any) -> Path:
    """config.json, weights in shards, and the tokenizer unless it is None."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder, tensors, SHARD)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return folder


def check_shapes(found: Mapping[str, Tensor], wanted: Mapping[str, torch.Size], source: Path) -> None:
    """Raises UserError naming the first missing, unexpected or misshapen tensors."""
    check_names(list(found), list(wanted), source)
    for name, shape in wanted.items():
        if found[name].shape != shape:
            raise UserError(f"{source}: {name} is {list(found[name].shape)}, but must be {list(shape)}; get it anew.")


def original_config(size: BackboneSize, vocabulary: int, architecture: str) -> dict[str, Any]:
    """config.json as the released code reads it; `methods.internvl.weights.read_config` is the inverse."""
    family = {"qwen2": "Qwen2ForCausalLM", "internlm2": "InternLM2ForCausalLM"}[size.text_family]
    big_vision = size.vision_style == "6b"
    return {
        "architectures": [architecture],
        "model_type": "internvl_chat",
        "template": "internvl2_5",
        "ps_version": "v2",
        "select_layer": -1,
        "downsample_ratio": 0.5,
        "dynamic_image_size": size.max_tiles > 1,
        "use_thumbnail": True,
        "pad2square": False,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": size.max_tiles,
        "force_image_size": size.image_size,
        "llm_config": {
            "architectures": [family],
            "model_type": size.text_family,
            "hidden_size": size.text_width,
            "num_hidden_layers": size.text_layers,
            "num_attention_heads": size.text_heads,
            "num_key_value_heads": size.text_kv_heads,
            "intermediate_size": size.text_mlp,
            "rope_theta": size.rope_theta,
            "rms_norm_eps": size.rms_eps,
            "vocab_size": vocabulary,
            "tie_word_embeddings": False,
        },
        "vision_config": {
            "architectures": ["InternVisionModel"],
            "model_type": "intern_vit_6b",
            "hidden_size": size.vision_width,
            "num_hidden_layers": size.vision_layers,
            "num_attention_heads": size.vision_heads,
            "intermediate_size": size.vision_mlp,
            "image_size": size.image_size,
            "patch_size": size.patch_size,
            "qk_normalization": big_vision,
            "qkv_bias": not big_vision,
            "norm_type": "rms_norm" if big_vision else "layer_norm",
            "initializer_factor": size.layer_scale,
            "layer_norm_eps": size.vision_eps,
        },
    }
