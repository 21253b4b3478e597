"""The official VQ-VAE and ARGenSeg checkpoints <-> this project's folders: VAR's VQ-VAE alone, or the whole model that
holds it as `image_tokenizer.*` (methods/internvl/checkpoint/conversion.py). The official evaluation does not use the
checkpoint's own VQ-VAE, which was rounded to bfloat16, but VAR's file in float32: give it as mask_tokenizer=."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from methods.argenseg.config import SCALES_256, SCALES_512, MaskTokenizerConfig, Variant
from methods.argenseg.mask_tokenizer import VQVAE
from methods.argenseg.model import ARGenSeg
from methods.argenseg.processor import ARGenSegProcessor
from methods.base import UserError
from methods.files import fill
from methods.internvl import checkpoint
from methods.internvl.backbone import Backbone
from methods.internvl.checkpoint import io, opengvlab
from methods.internvl.checkpoint.conversion import BACKBONE, TOKENIZER, Conversion, count, table
from methods.internvl.config import BackboneSize, ProcessorConfig

OFFICIAL_TOKENIZER = "image_tokenizer."  # of the whole model; VAR's own file has no prefix
OWN = ("word_embed.weight", "word_embed.bias", "lvl_embed.weight", "pos_1LC")  # the same name on both sides
# A model that was saved after it had generated holds these parts twice.
REPEATED = re.compile(r"language_model\.(image_tokenizer\.|word_embed\.|lvl_embed\.|pos_1LC)")


# ---- names and sizes ------------------------------------------------------------------------------------------------


def tokenizer_tensors(config: MaskTokenizerConfig) -> dict[str, Tensor]:
    """The tensors of a VQ-VAE, without memory."""
    with torch.device("meta"):
        return VQVAE(config).state_dict()


def sizes_of(tensors: Mapping[str, Tensor], tokens: int, source: Path) -> MaskTokenizerConfig:
    """The configuration of an official VQ-VAE that writes `tokens` tokens, read off its shapes.

    Raises UserError naming what is not there.
    """

    def shape(name: str, dimensions: int) -> torch.Size:
        return io.sizes_in(tensors, name, dimensions, source, "VAR's VQ-VAE")

    ladders = {sum(side * side for side in scales): scales for scales in (SCALES_256, SCALES_512)}
    if tokens not in ladders:
        known = " and ".join(map(str, ladders))
        raise UserError(f"{source}: writes {tokens} tokens an image; official models write {known}.")
    levels = count(tensors, "encoder.down.", ".block.0.conv1.weight")
    width = shape("encoder.conv_in.weight", 4)[0]
    widths = [shape(f"encoder.down.{i}.block.0.conv1.weight", 4)[0] for i in range(levels)]
    codes, code_width = shape("quantize.embedding.weight", 2)
    found = dict(
        resolution=ladders[tokens][-1] * 2 ** (levels - 1) if levels else 1, width=width,
        multipliers=[w // width for w in widths], blocks=count(tensors, "encoder.down.0.block.", ".conv1.weight"),
        codes=codes, code_width=code_width, scales=list(ladders[tokens]),
        quant_resi=count(tensors, "quantize.quant_resi.qresi_ls.", ".weight"),
    )  # fmt: skip
    return fill(MaskTokenizerConfig, found, source, "give a file of VAR's VQ-VAE")


# ---- official -> ours -----------------------------------------------------------------------------------------------


def tokenizer_to_ours(tensors: Mapping[str, Tensor], source: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An official VQ-VAE -> config.json and tensors of an ARGenSeg folder without a language model."""
    config = sizes_of(tensors, sum(side * side for side in SCALES_256), source)
    io.check_tensors(tensors, tokenizer_tensors(config), source)
    own = checkpoint.describe_mask_tokenizer(ARGenSeg.name, config)
    return own, {ours: tensors[name] for name, ours in table(tokenizer_tensors(config)).items()}


def model_to_ours(
    tensors: Mapping[str, Tensor], source: Path, tokenizer: Any
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An official model -> config.json and tensors of an ARGenSeg folder."""
    size, vocabulary, tied = opengvlab.read_config(source)
    state, config = to_ours(tensors, size, vocabulary, source, tied)
    config, own = replace(config, mask_resize="official"), ProcessorConfig(system=opengvlab.SYSTEM, max_tiles=1)
    processor = ARGenSegProcessor(tokenizer, size, own, config, Variant(prompt_template="official"))
    with torch.device("meta"):
        backbone = Backbone(size, vocabulary, checkpoint.image_token_id(tokenizer))
        model = ARGenSeg(backbone, processor, VQVAE(config))
    if vocabulary != processor.mask_token_offset + model.visual_rows:
        raise UserError(
            f"{source}: {vocabulary} rows are not {processor.mask_token_offset} text tokens and {model.visual_rows} "
            "visual ones; copy the tokenizer that belongs to these weights."
        )
    io.check_tensors(state, model.state_dict(), source)
    return model.config(), state


def to_ours(
    tensors: Mapping[str, Tensor], size: BackboneSize, vocabulary: int, source: Path, tied: bool = False
) -> tuple[dict[str, Tensor], MaskTokenizerConfig]:
    """Official names -> ours, and the sizes of the VQ-VAE among them. Raises UserError for other names."""
    tensors = {name: tensor for name, tensor in tensors.items() if not REPEATED.match(name)}
    images = {n.removeprefix(OFFICIAL_TOKENIZER): t for n, t in tensors.items() if n.startswith(OFFICIAL_TOKENIZER)}
    absent = [name for name in OWN if name not in tensors]
    if absent:
        raise UserError(f"{source}: lacks {absent[0]}; it is not a model of ARGenSeg.")
    if not images:
        raise UserError(f"{source}: holds no VQ-VAE; give the file of VAR's with mask_tokenizer=.")
    config = sizes_of(images, tensors["pos_1LC"].shape[1], source)
    io.check_tensors(images, tokenizer_tensors(config), source)
    rest = {n: t for n, t in tensors.items() if n not in OWN and not n.startswith(OFFICIAL_TOKENIZER)}
    state = {name: tensors[name] for name in OWN}
    state |= {ours: tensors[name] for name, ours in table(tokenizer_tensors(config), OFFICIAL_TOKENIZER).items()}
    native = opengvlab.to_native(rest, size, vocabulary, source, tied)
    return state | {BACKBONE + name: tensor for name, tensor in native.items()}, config


# ---- ours -> official -----------------------------------------------------------------------------------------------


def to_official(state: Mapping[str, Tensor], size: BackboneSize, config: MaskTokenizerConfig) -> dict[str, Tensor]:
    """Bit for bit the inverse of to_ours."""
    native = {n.removeprefix(BACKBONE): t for n, t in state.items() if n.startswith(BACKBONE)}
    tensors = {name: state[name] for name in OWN} | opengvlab.to_original(native, size)
    return tensors | {name: state[ours] for name, ours in table(tokenizer_tensors(config), OFFICIAL_TOKENIZER).items()}


def _to_official(source: Path, config: dict[str, Any], target: Path) -> Path:
    state = io.read_tensors(source)
    sizes = checkpoint.part(config, "mask_tokenizer", MaskTokenizerConfig, source)
    if target.suffix in io.FILES:
        io.check_tensors(io.under(TOKENIZER, state), tokenizer_tensors(sizes), source)
        return io.write_file(target, {name: state[ours] for name, ours in table(tokenizer_tensors(sizes)).items()})
    if config.get("backbone") is None:
        raise UserError(f"{source}: is a VQ-VAE alone; give a target that ends in .pth or .safetensors.")
    with torch.device("meta"):
        model = ARGenSeg.from_config(config, source)
    io.check_tensors(state, model.state_dict(), source)
    variant, backbone = model.variant, model.backbone
    if (variant.head, variant.intra_scale) != ("tokens", "causal") or sizes.scales not in (SCALES_256, SCALES_512):
        raise UserError(f"{source}: is a variant that the official code cannot run; keep it in this project's layout.")
    settings = opengvlab.original_config(backbone.size, backbone.vocabulary, "InternVLGenSeg")
    return io.write_folder(target, settings, to_official(state, backbone.size, sizes), model.processor.tokenizer)


CONVERSION = Conversion(ARGenSeg.name, OFFICIAL_TOKENIZER, tokenizer_to_ours, model_to_ours, _to_official)
convert, official = CONVERSION.convert, CONVERSION.official
