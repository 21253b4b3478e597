"""OpenGVLab's original checkpoints <-> transformers' native classes, through an explicit table of names.

Every tensor of a file is used and every tensor of the model is set; anything else is an error that names it. Two
kinds of entries are more than a new name: the vision tower's q, k, v lie in one matrix of three blocks, and
InternLM2's in one matrix that is grouped by key-value head.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from methods.base import UserError
from methods.internvl.config import BackboneSize

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
VISION = "model.vision_tower."
PROJECTOR = "model.multi_modal_projector."
TEXT = "model.language_model."


@dataclass(frozen=True)
class Entry:
    """One tensor of the original layout and what becomes of it.

    kind: "copy"; "blocks" (equal row blocks, one per native name); "grouped" (rows of q, k and v interleaved by
    key-value head).
    """

    original: str
    native: tuple[str, ...]
    kind: str = "copy"


def key_table(size: BackboneSize) -> list[Entry]:
    """All entries for an architecture, in the original's order of modules."""
    return [*_vision(size), *_text(size), *_projector()]


def _copies(pairs: Mapping[str, str], original: str, native: str, parts: tuple[str, ...]) -> Iterator[Entry]:
    for old, new in pairs.items():
        for part in parts:
            yield Entry(f"{original}{old}{part}", (f"{native}{new}{part}",))


def _vision(size: BackboneSize) -> Iterator[Entry]:
    both = (".weight", ".bias")
    old, new = "vision_model.embeddings.", VISION + "embeddings."
    yield Entry(old + "class_embedding", (new + "cls_token",))
    yield Entry(old + "position_embedding", (new + "position_embeddings",))
    yield from _copies({"patch_embedding": "patch_embeddings.projection"}, old, new, both)
    plain = size.vision_style == "300m"
    for i in range(size.vision_layers):
        old, new = f"vision_model.encoder.layers.{i}.", f"{VISION}encoder.layer.{i}."
        for part in both if plain else (".weight",):
            names = tuple(f"{new}attention.{x}_proj{part}" for x in "qkv")
            yield Entry(f"{old}attn.qkv{part}", names, "blocks")
        yield from _copies({"ls1": "lambda_1", "ls2": "lambda_2"}, old, new, ("",))
        yield from _copies({"attn.proj": "attention.projection_layer"}, old, new, both)
        yield from _copies({"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}, old, new, both)
        norms = {"norm1": "layernorm_before", "norm2": "layernorm_after"}
        yield from _copies(norms, old, new, both if plain else (".weight",))
        if not plain:
            norms = {"attn.q_norm": "attention.q_norm", "attn.k_norm": "attention.k_norm"}
            yield from _copies(norms, old, new, (".weight",))


def _projector() -> Iterator[Entry]:
    pairs = {"mlp1.0": "layer_norm", "mlp1.1": "linear_1", "mlp1.3": "linear_2"}  # mlp1.2 is the GELU
    yield from _copies(pairs, "", PROJECTOR, (".weight", ".bias"))


def _text(size: BackboneSize) -> Iterator[Entry]:
    old, weight = "language_model.", (".weight",)
    if size.text_family == "qwen2":
        yield from _copies({"model.embed_tokens": "embed_tokens", "model.norm": "norm"}, old, TEXT, weight)
        yield Entry(old + "lm_head.weight", ("lm_head.weight",))
        for i in range(size.text_layers):
            layer = f"layers.{i}."
            same = ["self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
            same += ["input_layernorm", "post_attention_layernorm"]
            yield from _copies({n: n for n in same}, f"{old}model.{layer}", TEXT + layer, weight)
            heads = {f"self_attn.{x}_proj": f"self_attn.{x}_proj" for x in "qkv"}
            yield from _copies(heads, f"{old}model.{layer}", TEXT + layer, (".weight", ".bias"))
        return
    yield from _copies({"model.tok_embeddings": "embed_tokens", "model.norm": "norm"}, old, TEXT, weight)
    yield Entry(old + "output.weight", ("lm_head.weight",))
    for i in range(size.text_layers):
        layer = f"layers.{i}."
        names = tuple(f"{TEXT}{layer}self_attn.{x}_proj.weight" for x in "qkv")
        yield Entry(f"{old}model.{layer}attention.wqkv.weight", names, "grouped")
        pairs = {
            "attention.wo": "self_attn.o_proj",
            "feed_forward.w1": "mlp.gate_proj",
            "feed_forward.w3": "mlp.up_proj",
            "feed_forward.w2": "mlp.down_proj",
            "attention_norm": "input_layernorm",
            "ffn_norm": "post_attention_layernorm",
        }
        yield from _copies(pairs, f"{old}model.{layer}", TEXT + layer, weight)


# ---- one tensor ---------------------------------------------------------------------------------------------


def split(tensor: Tensor, entry: Entry, size: BackboneSize) -> list[Tensor]:
    """A tensor of the original layout -> the native tensors of its entry, in order."""
    if entry.kind == "copy":
        return [tensor]
    if entry.kind == "blocks":
        return list(tensor.chunk(len(entry.native)))
    group = size.text_heads // size.text_kv_heads
    rows = tensor.unflatten(0, (size.text_kv_heads, group + 2, -1))
    return [rows[:, :group].flatten(0, 2), rows[:, group].flatten(0, 1), rows[:, group + 1].flatten(0, 1)]


def join(tensors: list[Tensor], entry: Entry, size: BackboneSize) -> Tensor:
    """The inverse of split."""
    if entry.kind == "copy":
        return tensors[0]
    if entry.kind == "blocks":
        return torch.cat(tensors)
    heads = [part.unflatten(0, (size.text_kv_heads, -1, size.text_width // size.text_heads)) for part in tensors]
    return torch.cat(heads, 1).flatten(0, 2)


# ---- whole models -------------------------------------------------------------------------------------------


def is_dropped(name: str) -> bool:
    """Tensors of old files that hold nothing: the rotary frequencies are computed."""
    return name.endswith("rotary_emb.inv_freq")


def to_native(tensors: Mapping[str, Tensor], size: BackboneSize, source: Any = "checkpoint") -> dict[str, Tensor]:
    """Original tensors -> native state dict. Raises UserError for missing or unexpected names."""
    table = key_table(size)
    check_names([n for n in tensors if not is_dropped(n)], [entry.original for entry in table], source)
    native: dict[str, Tensor] = {}
    for entry in table:
        native |= zip(entry.native, split(tensors[entry.original], entry, size), strict=True)
    return native


def to_original(tensors: Mapping[str, Tensor], size: BackboneSize, source: Any = "model") -> dict[str, Tensor]:
    """Native state dict -> original tensors, bit for bit the inverse of to_native."""
    table = key_table(size)
    check_names(list(tensors), [name for entry in table for name in entry.native], source)
    return {e.original: join([tensors[name] for name in e.native], e, size) for e in table}


def check_names(found: list[str], wanted: list[str], source: Any) -> None:
    """Raises UserError naming the first missing or unexpected tensors."""
    for what, names in (("lacks", set(wanted) - set(found)), ("has unexpected", set(found) - set(wanted))):
        if names:
            some = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise UserError(f"{source}: {what} {some}; it is not a checkpoint of this architecture.")


def convert(source: Path, target: Path) -> Path:
    """An original InternVL2_5 folder or a native one -> our folder; ours -> a native one -> the folder written."""
    from methods.internvl import native  # here, because it builds on this file

    return native.convert(source, target)


# ---- folders ------------------------------------------------------------------------------------------------


def read_config(folder: Path) -> tuple[BackboneSize, int]:
    """(architecture, vocabulary rows) from an original config.json. Raises UserError for what is not InternVL2.5."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{folder}: config.json is missing; give a downloaded InternVL2_5 folder.") from None
    except ValueError as error:
        raise UserError(f"{folder}/config.json: not InternVL2.5's ({error!r}); give its original file.") from None
    return parse_config(config, folder)


def parse_config(config: Mapping[str, Any], folder: Path) -> tuple[BackboneSize, int]:
    """(architecture, vocabulary rows) from the content of an original config.json. Raises UserError for another."""
    try:
        vision, text = config["vision_config"], config["llm_config"]
        kind = text["architectures"][0]
        family = {"Qwen2ForCausalLM": "qwen2", "InternLM2ForCausalLM": "internlm2"}.get(kind)
        if family is None or config.get("ps_version") != "v2" or config.get("select_layer", -1) != -1:
            raise UserError(f"{folder}: {kind} in this form is no InternVL2.5; give an InternVL2_5 checkpoint.")
        size = BackboneSize(
            family, text["hidden_size"], text["num_hidden_layers"], text["num_attention_heads"],
            text["num_key_value_heads"], text["intermediate_size"], vision["hidden_size"],
            vision["num_hidden_layers"], vision["num_attention_heads"], vision["intermediate_size"],
            vision_style="6b" if vision["qk_normalization"] else "300m",
            image_size=config.get("force_image_size") or vision["image_size"], patch_size=vision["patch_size"],
            max_tiles=config.get("max_dynamic_patch", 12), rope_theta=text["rope_theta"],
            rms_eps=text["rms_norm_eps"], layer_scale=vision.get("initializer_factor", 0.1),
            vision_eps=vision["layer_norm_eps"],
        )  # fmt: skip
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{folder}/config.json: not InternVL2.5's ({error!r}); give its original file.") from None
    return size, text["vocab_size"]


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's model.safetensors, or of the shards that its index names, memory-mapped.

    Raises UserError for damaged or missing files.
    """
    tensors: dict[str, Tensor] = {}
    index = folder / INDEX_FILE
    try:
        placed = json.loads(index.read_text())["weight_map"] if index.is_file() else {}
        files = sorted(set(placed.values())) or [WEIGHTS_FILE]
        for path in (folder / Path(name).name for name in files):
            if not path.is_file():
                raise UserError(f"{folder}: {path.name} is missing; give a folder with all its safetensors files.")
            with safe_open(path, "pt") as handle:
                tensors |= {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}: damaged checkpoint ({error}); copy, download or train it again.") from None
    absent = sorted(set(placed) - set(tensors))
    if absent:
        raise UserError(f"{folder}: {absent[0]} is in {INDEX_FILE} but in no file; copy all shards again.")
    return tensors


def write_tensors(folder: Path, tensors: Mapping[str, Tensor], max_shard_size: str) -> None:
    """The inverse of read_tensors: one model.safetensors, or shards of at most `max_shard_size` ("5GB", "15MB") and
    their index. Weights that lay in the folder before are removed."""
    for old in [*folder.glob("model*.safetensors"), folder / INDEX_FILE]:
        old.unlink(missing_ok=True)
    plan = split_torch_state_dict_into_shards(dict(tensors), max_shard_size=max_shard_size)
    for file, names in plan.filename_to_tensors.items():
        save_file({name: tensors[name].contiguous() for name in names}, folder / file)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
