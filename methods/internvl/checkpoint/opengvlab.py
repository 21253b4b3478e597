"""OpenGVLab's original layout <-> the names of transformers' native classes, through an explicit table of names.

Every tensor of a file is used and every tensor of the model is set; anything else is an error that names it. Two
kinds of entries are more than a new name: the vision tower's q, k, v lie in one matrix of three blocks, and
InternLM2's in one matrix that is grouped by key-value head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from methods.base import UserError
from methods.files import fill, number, quoted
from methods.internvl.backbone import meta_shapes
from methods.internvl.checkpoint.io import CONFIG_FILE, check_names, check_tensors, read_settings
from methods.internvl.config import ROWS, BackboneSize

SYSTEM = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
FAMILIES = {"qwen2": "Qwen2ForCausalLM", "internlm2": "InternLM2ForCausalLM"}
REPAIR = "give the original file of an InternVL2_5 checkpoint"
VISION = "model.vision_tower."
PROJECTOR = "model.multi_modal_projector."
TEXT = "model.language_model."
EMBEDDING, HEAD = TEXT + "embed_tokens.weight", "lm_head.weight"
# Fields of BackboneSize -> the original's, where only the name differs.
TEXT_SIZES = {
    "text_width": "hidden_size", "text_layers": "num_hidden_layers", "text_heads": "num_attention_heads",
    "text_kv_heads": "num_key_value_heads", "text_mlp": "intermediate_size", "rope_theta": "rope_theta",
    "rms_eps": "rms_norm_eps",
}  # fmt: skip
VISION_SIZES = {
    "vision_width": "hidden_size", "vision_layers": "num_hidden_layers", "vision_heads": "num_attention_heads",
    "vision_mlp": "intermediate_size", "patch_size": "patch_size", "layer_scale": "initializer_factor",
    "vision_eps": "layer_norm_eps",
}  # fmt: skip


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


def to_native(
    tensors: Mapping[str, Tensor], size: BackboneSize, rows: int, source: Any = "checkpoint", tied: bool = False
) -> dict[str, Tensor]:
    """Original tensors -> native state dict for a vocabulary of `rows`; tied: the head may be the embedding.

    Raises UserError for missing, unexpected, misshapen or unusable tensors.
    """
    table = key_table(size)
    tensors = {name: tensor for name, tensor in tensors.items() if not is_dropped(name)}
    if tied:
        one, other = (next(e.original for e in table if e.native == (name,)) for name in (EMBEDDING, HEAD))
        tensors = with_head(tensors, one, other, source)
    native = meta_shapes(size, rows)
    wanted = {e.original: join([native[name] for name in e.native], e, size) for e in table}
    check_tensors(tensors, wanted, source)  # before anything is split, which needs the right shapes
    found: dict[str, Tensor] = {}
    for entry in table:
        found |= zip(entry.native, split(tensors[entry.original], entry, size), strict=True)
    return found


def with_head(tensors: dict[str, Tensor], embedding: str, head: str, source: Any) -> dict[str, Tensor]:
    """The tensors of a model whose head is its embedding, with a head of its own. Raises UserError if both are there
    and differ, because then one of the two is not what the model was trained with."""
    if head not in tensors and embedding in tensors:
        return tensors | {head: tensors[embedding].clone()}
    if head in tensors and embedding in tensors and not torch.equal(tensors[head], tensors[embedding]):
        raise UserError(
            f"{source}: config.json says that the head is the embedding (tie_word_embeddings), but {head} differs; "
            "set it to false if the head is meant."
        )
    return tensors


def to_original(tensors: Mapping[str, Tensor], size: BackboneSize, source: Any = "model") -> dict[str, Tensor]:
    """Native state dict -> original tensors, bit for bit the inverse of to_native."""
    table = key_table(size)
    check_names(tensors, dict.fromkeys(name for entry in table for name in entry.native), source)
    return {e.original: join([tensors[name] for name in e.native], e, size) for e in table}


# ---- config.json ----------------------------------------------------------------------------------------------------


def read_config(folder: Path) -> tuple[BackboneSize, int, bool]:
    """(architecture, vocabulary rows, whether the head is the embedding) from an original config.json.

    Raises UserError for what is neither InternVL2.5 nor InternVL3 on Qwen2.5, which has the same form.
    """
    return parse_config(read_settings(folder), folder)


def parse_config(config: Mapping[str, Any], folder: Path) -> tuple[BackboneSize, int, bool]:
    """As read_config, from the content of the file."""
    where = f"{folder}/{CONFIG_FILE}"
    vision, text = (_section(config, name, where) for name in ("vision_config", "llm_config"))
    kind = text.get("architectures")
    family = next((own for own, theirs in FAMILIES.items() if kind == [theirs]), None)
    if family is None or config.get("ps_version") != "v2" or config.get("select_layer", -1) != -1:
        raise UserError(
            f"{folder}: {quoted(kind)} in this form is no InternVL2.5; give an InternVL2_5 checkpoint, or an InternVL3 "
            "on Qwen2.5."
        )
    found = {name: text.get(theirs, MISSING) for name, theirs in TEXT_SIZES.items()}
    found |= {name: vision.get(theirs, MISSING) for name, theirs in VISION_SIZES.items()}
    normalised = vision.get("qk_normalization")
    found |= {
        "text_family": family,
        "vision_style": ("300m", "6b")[normalised] if isinstance(normalised, bool) else normalised,
        "image_size": config.get("force_image_size") or vision.get("image_size", MISSING),
        "max_tiles": config.get("max_dynamic_patch", MISSING),
    }
    size = fill(BackboneSize, {name: value for name, value in found.items() if value is not MISSING}, where, REPAIR)
    rows = number(text.get("vocab_size"), f"{where}: vocab_size", 1, ROWS, whole=True, repair=REPAIR)
    return size, rows, text.get("tie_word_embeddings", config.get("tie_word_embeddings")) is True


def _section(config: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    found = config.get(name)
    if not isinstance(found, Mapping):
        raise UserError(f"{where}: not InternVL2.5's ({name!r} is {quoted(found)}); {REPAIR}.")
    return found


def original_config(size: BackboneSize, vocabulary: int, architecture: str) -> dict[str, Any]:
    """config.json as the released code reads it; `read_config` is the inverse."""
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
            "architectures": [FAMILIES[size.text_family]],
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
