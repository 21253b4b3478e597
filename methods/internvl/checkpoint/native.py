"""transformers' native layout of InternVL (`-hf` folders), and a plain backbone from layout to layout.

OpenGVLab's original InternVL2_5 folders and transformers' native ones become our config.json and tensors; our folder
becomes a native one. Every tensor is used and keeps its dtype and bits; no code from a folder is ever run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import InternVLConfig

from methods.base import UserError
from methods.files import fill, number, read_object
from methods.internvl.backbone import meta_shapes
from methods.internvl.checkpoint import io, opengvlab
from methods.internvl.config import ROWS, BackboneSize, transformers_config
from methods.internvl.vocabulary import IMAGE_CONTEXT, load_tokenizer, token_id

BACKBONE_ALONE = "boxes"  # the method whose models are an InternVL and nothing else
FORMAT = 2
OURS = "backbone.native."
REPAIR = "give the file of an InternVL2_5 checkpoint"
# Native names in memory -> in the files that transformers writes and the hub holds. Either is read.
FILES = {
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
}
FAMILIES = {"qwen2": "qwen2", "llama": "internlm2"}  # InternLM2 is arithmetically a Llama and native as one
OFFICIAL_TILES = 12


def convert(source: Path, target: Path) -> Path:
    """Original or native folder -> ours, or our folder of a backbone alone -> a native one; -> the folder written."""
    source, target = Path(source), Path(target)
    io.check_places(source, target)
    settings = io.read_settings(source)
    tokenizer = load_tokenizer(source)
    layout = _to_files if settings.get("method") == BACKBONE_ALONE else to_ours
    return io.write_folder(target, *layout(source, settings, tokenizer), tokenizer)


def official(
    source: Path, settings: Mapping[str, Any], mask_tokenizer: Path | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """MethodSpec.official of the backbone alone."""
    if mask_tokenizer is not None:
        raise UserError(f"{mask_tokenizer}: a backbone alone has no mask tokenizer; leave it out.")
    return to_ours(source, settings, load_tokenizer(source))


def to_ours(source: Path, settings: Mapping[str, Any], tokenizer: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A folder with these settings in its config.json -> our config.json and tensors.

    Raises UserError for missing, unexpected or misshapen tensors, and for another architecture.
    """
    if settings.get("model_type") == "internvl":
        size, rows, tied = native_size(source, settings)
        tensors = from_files(io.read_tensors(source), size, rows, source, tied)
    else:
        size, rows, tied = opengvlab.parse_config(settings, source)
        tensors = opengvlab.to_native(io.read_tensors(source), size, rows, source, tied)
    if len(tokenizer) > rows:
        raise UserError(f"{source}: the tokenizer has {len(tokenizer)} entries, the weights {rows}; copy both again.")
    config = {
        "format": FORMAT,
        "method": BACKBONE_ALONE,
        "backbone": asdict(size),
        "vocabulary": rows,
        "processor": {"image_first": True, "system": opengvlab.SYSTEM, "max_tiles": size.max_tiles, "box_scale": 1000},
    }
    return config, {OURS + name: tensor for name, tensor in tensors.items()}


def native_size(source: Path, settings: Mapping[str, Any]) -> tuple[BackboneSize, int, bool]:
    """(architecture, vocabulary rows, whether the head is the embedding) of a native config.json.

    Raises UserError for what InternVL2.5 is not.
    """
    where = f"{source}/{io.CONFIG_FILE}"
    try:
        config = InternVLConfig.from_dict(dict(settings))
        vision, text = config.vision_config, config.text_config
        found = _sizes(vision, text) | {"max_tiles": _most_tiles(source)}
    except UserError:
        raise
    except Exception as error:  # wrong fields fail in transformers with any exception
        reason = (str(error) or repr(error)).strip().splitlines()[0]
        raise UserError(f"{where}: not InternVL2.5's ({reason}); {REPAIR}.") from None
    if config.downsample_ratio != 0.5 or config.vision_feature_layer != -1:
        raise UserError(f"{source}: an InternVL of another form than 2.5; give an InternVL2_5 checkpoint.")
    rows = number(text.vocab_size, f"{where}: vocab_size", 1, ROWS, whole=True, repair=REPAIR)
    said = (settings.get("tie_word_embeddings"), _text_of(settings).get("tie_word_embeddings"))
    return fill(BackboneSize, found, where, REPAIR), rows, True in said


def _text_of(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    found = settings.get("text_config")
    return found if isinstance(found, Mapping) else {}


def _sizes(vision: Any, text: Any) -> dict[str, Any]:
    if text.model_type not in FAMILIES:
        raise ValueError(f"its language model is {text.model_type!r}")
    return {
        "text_family": FAMILIES[text.model_type],
        "text_width": text.hidden_size,
        "text_layers": text.num_hidden_layers,
        "text_heads": text.num_attention_heads,
        "text_kv_heads": text.num_key_value_heads,
        "text_mlp": text.intermediate_size,
        "rope_theta": text.rope_parameters["rope_theta"],
        "rms_eps": text.rms_norm_eps,
        "vision_width": vision.hidden_size,
        "vision_layers": vision.num_hidden_layers,
        "vision_heads": vision.num_attention_heads,
        "vision_mlp": vision.intermediate_size,
        "vision_style": "6b" if vision.use_qk_norm else "300m",
        "vision_eps": vision.layer_norm_eps,
        "image_size": vision.image_size[0],
        "patch_size": vision.patch_size[0],
        "layer_scale": vision.layer_scale_init_value,
    }


def _most_tiles(source: Path) -> Any:
    """From the image processor's settings, or the official checkpoints' number."""
    path = source / "preprocessor_config.json"
    return read_object(path, io.COPY).get("max_patches", OFFICIAL_TILES) if path.is_file() else OFFICIAL_TILES


def file_name(native: str) -> str:
    """The name of a native tensor in files."""
    start = next(start for start in FILES if native.startswith(start))
    return FILES[start] + native.removeprefix(start)


def from_files(
    tensors: Mapping[str, Tensor], size: BackboneSize, rows: int, source: Any, tied: bool = False
) -> dict[str, Tensor]:
    """Tensors under the names of native files -> under those in memory; names in memory are left as they are."""
    wanted = meta_shapes(size, rows)
    names = {file_name(name): name for name in wanted}
    renamed = {names.get(name, name): tensor for name, tensor in tensors.items()}
    if len(renamed) < len(tensors):
        raise UserError(f"{source}: holds tensors twice under two layouts' names; copy it again.")
    if tied:
        renamed = opengvlab.with_head(renamed, opengvlab.EMBEDDING, opengvlab.HEAD, source)
    io.check_tensors(renamed, wanted, source)
    return renamed


def _to_files(source: Path, settings: Mapping[str, Any], tokenizer: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Our folder -> config.json and tensors of a native one."""
    where = f"{source}/{io.CONFIG_FILE}"
    size = fill(BackboneSize, settings.get("backbone"), f"{where}: backbone", io.COPY)
    rows = number(settings.get("vocabulary"), f"{where}: vocabulary", 1, ROWS, whole=True, repair=io.COPY)
    tensors = io.read_tensors(source)
    io.check_tensors(tensors, {OURS + name: shape for name, shape in meta_shapes(size, rows).items()}, source)
    native = transformers_config(size, rows, token_id(tokenizer, IMAGE_CONTEXT))
    config = native.to_dict() | {"architectures": ["InternVLForConditionalGeneration"]}
    config["dtype"] = str(tensors[OURS + opengvlab.HEAD].dtype).removeprefix("torch.")
    return config, {file_name(name.removeprefix(OURS)): tensor for name, tensor in tensors.items()}
