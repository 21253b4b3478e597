"""Folders of InternVL that others wrote, and what they are here.

OpenGVLab's original InternVL2_5 folders and transformers' native ones (`-hf`) become our config.json and tensors;
our folder becomes a native one. Every tensor is used and keeps its dtype and bits; files are memory-mapped and no code
from a folder is ever run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import InternVLConfig

from methods.base import UserError
from methods.internvl import checkpoint
from methods.internvl.backbone import Backbone
from methods.internvl.config import BackboneSize, transformers_config
from methods.internvl.method import InternVLMethod
from methods.internvl.released import SHARD, SYSTEM, check_places, check_shapes, read_settings
from methods.internvl.vocabulary import load_tokenizer
from methods.internvl.weights import key_table, parse_config, read_tensors, to_native, write_tensors

OURS = "backbone.native."
# Native names in memory -> in the files that transformers writes and the hub holds. Either is read.
FILES = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
}
FAMILIES = {"qwen2": "qwen2", "llama": "internlm2"}  # InternLM2 is arithmetically a Llama and native as one


def convert(source: Path, target: Path) -> Path:
    """Original or native folder -> ours, or our `internvl` folder -> a native one; -> the folder written."""
    source, target = Path(source), Path(target)
    check_places(source, target)
    settings = read_settings(source)
    tokenizer = load_tokenizer(source)
    if settings.get("method") == InternVLMethod.name:
        config, tensors = _to_files(source, settings, tokenizer)
    else:
        config, tensors = to_ours(source, settings, tokenizer)
    target.mkdir(parents=True, exist_ok=True)
    write_tensors(target, tensors, SHARD)
    tokenizer.save_pretrained(target)
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return target


def to_ours(source: Path, settings: Mapping[str, Any], tokenizer: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A folder with these settings in its config.json -> our config.json and tensors.

    Raises UserError for missing, unexpected or misshapen tensors, and for another architecture.
    """
    if settings.get("model_type") == "internvl":
        size, rows = native_size(source, settings)
        tensors = from_files(read_tensors(source), size, source)
    else:
        size, rows = parse_config(settings, source)
        tensors = to_native(read_tensors(source), size, source)
    if len(tokenizer) > rows:
        raise UserError(f"{source}: the tokenizer has {len(tokenizer)} entries, the weights {rows}; copy both anew.")
    with torch.device("meta"):
        wanted = Backbone(size, rows, 0).native.state_dict()
    check_shapes(tensors, {name: tensor.shape for name, tensor in wanted.items()}, source)
    config = {
        "format": checkpoint.FORMAT,
        "method": InternVLMethod.name,
        "backbone": asdict(size),
        "vocabulary": rows,
        "options": {"image_first": True, "system": SYSTEM, "max_tiles": size.max_tiles, "box_scale": 1000},
    }
    return config, {OURS + name: tensor for name, tensor in tensors.items()}


def native_size(source: Path, settings: Mapping[str, Any]) -> tuple[BackboneSize, int]:
    """(architecture, vocabulary rows) of a native config.json. Raises UserError for what InternVL2.5 is not."""
    try:
        config = InternVLConfig.from_dict(dict(settings))
        vision, text = config.vision_config, config.text_config
        family = FAMILIES[text.model_type]
        if config.tie_word_embeddings or config.downsample_ratio != 0.5 or config.vision_feature_layer != -1:
            raise UserError(f"{source}: an InternVL of another form than 2.5; give an InternVL2_5 checkpoint.")
        size = BackboneSize(
            family, text.hidden_size, text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads,
            text.intermediate_size, vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads,
            vision.intermediate_size, vision_style="6b" if vision.use_qk_norm else "300m",
            image_size=vision.image_size[0], patch_size=vision.patch_size[0], max_tiles=_most_tiles(source),
            rope_theta=text.rope_parameters["rope_theta"], rms_eps=text.rms_norm_eps,
            layer_scale=vision.layer_scale_init_value, vision_eps=vision.layer_norm_eps,
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise UserError(f"{source}/config.json: not InternVL2.5's ({error!r}); give its original file.") from None
    return size, text.vocab_size


def _most_tiles(source: Path) -> int:
    """From the picture processor's settings, or the official checkpoints' 12."""
    try:
        return int(json.loads((source / "preprocessor_config.json").read_text())["max_patches"])
    except (OSError, ValueError, KeyError, TypeError):
        return 12


def file_name(native: str) -> str:
    """The name of a native tensor in files."""
    start = next(start for start in FILES if native.startswith(start))
    return FILES[start] + native.removeprefix(start)


def from_files(tensors: Mapping[str, Tensor], size: BackboneSize, source: Any) -> dict[str, Tensor]:
    """Tensors under the names of native files -> under those in memory; names in memory are left as they are."""
    names = {file_name(name): name for entry in key_table(size) for name in entry.native}
    renamed = {names.get(name, name): tensor for name, tensor in tensors.items()}
    if len(renamed) < len(tensors):
        raise UserError(f"{source}: holds tensors twice under two layouts' names; download it again.")
    return renamed


def _to_files(source: Path, settings: dict[str, Any], tokenizer: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Our folder -> config.json and tensors of a native one."""
    try:
        with torch.device("meta"):
            method = InternVLMethod.from_config(settings, source)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{source}: config.json does not fit this version ({error}); train it again.") from None
    tensors = read_tensors(source)
    check_shapes(tensors, {name: tensor.shape for name, tensor in method.state_dict().items()}, source)
    native = transformers_config(method.backbone.size, method.backbone.vocabulary, checkpoint.image_token_id(tokenizer))
    config = native.to_dict() | {"architectures": ["InternVLForConditionalGeneration"]}
    config["dtype"] = str(tensors[OURS + "lm_head.weight"].dtype).removeprefix("torch.")
    return config, {file_name(name.removeprefix(OURS)): tensor for name, tensor in tensors.items()}
