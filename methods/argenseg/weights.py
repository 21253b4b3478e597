"""The released VQ-VAE and ARGenSeg checkpoints <-> this project's folders, through an explicit table of names.

Released forms: VAR's VQ-VAE alone (one file), or the whole model (a folder in InternVL2.5's original layout with the
VQ-VAE as `image_tokenizer.*`). Every tensor is used and keeps its dtype and bits; a missing, unexpected or misshapen
one is an error that names it. Files are memory-mapped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from methods.argenseg.form import Form
from methods.argenseg.mask_tokenizer import VQVAE, CodecConfig
from methods.argenseg.model import ARGenSeg
from methods.argenseg.quantizer import SCALES_256, SCALES_512
from methods.base import UserError
from methods.files import fill
from methods.internvl import checkpoint
from methods.internvl.backbone import Backbone
from methods.internvl.checkpoint import io, opengvlab
from methods.internvl.config import BackboneSize
from methods.internvl.method import Options
from methods.internvl.vocabulary import load_tokenizer

RELEASED_CODEC = "image_tokenizer."  # of the whole model; VAR's own file has no prefix
CODEC, BACKBONE = "codec.", "backbone.native."
OWN = ("word_embed.weight", "word_embed.bias", "lvl_embed.weight", "pos_1LC")  # the same name on both sides
# A model that was saved after it had generated holds these parts twice.
REPEATED = re.compile(r"language_model\.(image_tokenizer\.|word_embed\.|lvl_embed\.|pos_1LC)")


def convert(source: Path, target: Path) -> Path:
    """Released -> ours or back, by what `source` is -> the file or folder written.

    A released file or folder becomes our folder `target`. Our folder becomes a released folder, or the VQ-VAE's file
    alone if `target` ends in .pth or .safetensors. Raises UserError for damaged or unfitting input.
    """
    source, target = Path(source), Path(target)
    io.check_places(source, target)
    if source.is_file():
        return io.write_folder(target, *codec_to_ours(io.read_file(source), source), None)
    config = io.read_settings(source)
    if config.get("method") == ARGenSeg.name:
        return _release(source, config, target)
    tokenizer = load_tokenizer(source)
    tensors = io.read_tensors(source)
    return io.write_folder(target, *model_to_ours(tensors, source, tokenizer), tokenizer)


# ---- names and sizes ------------------------------------------------------------------------------------------------


def codec_table(config: CodecConfig, prefix: str = "") -> dict[str, str]:
    """Released name -> ours, of every tensor of a VQ-VAE."""
    return {prefix + name: CODEC + name for name in codec_tensors(config)}


def codec_tensors(config: CodecConfig) -> dict[str, Tensor]:
    """The tensors of a VQ-VAE, without memory."""
    with torch.device("meta"):
        return VQVAE(config).state_dict()


def sizes_of(tensors: Mapping[str, Tensor], tokens: int, source: Path) -> CodecConfig:
    """The configuration of a released VQ-VAE that writes `tokens` tokens, read off its shapes.

    Raises UserError naming what is not there.
    """

    def shape(name: str, dimensions: int) -> torch.Size:
        return io.sizes_in(tensors, name, dimensions, source, "VAR's VQ-VAE")

    def count(before: str, after: str) -> int:
        return next(i for i in range(len(tensors) + 1) if f"{before}{i}{after}" not in tensors)

    ladders = {sum(side * side for side in scales): scales for scales in (SCALES_256, SCALES_512)}
    if tokens not in ladders:
        known = " and ".join(map(str, ladders))
        raise UserError(f"{source}: writes {tokens} tokens a picture; released models write {known}.")
    levels = count("encoder.down.", ".block.0.conv1.weight")
    width = shape("encoder.conv_in.weight", 4)[0]
    widths = [shape(f"encoder.down.{i}.block.0.conv1.weight", 4)[0] for i in range(levels)]
    codes, code_width = shape("quantize.embedding.weight", 2)
    found = dict(
        resolution=ladders[tokens][-1] * 2 ** (levels - 1) if levels else 1, width=width,
        multipliers=[w // width for w in widths], blocks=count("encoder.down.0.block.", ".conv1.weight"), codes=codes,
        code_width=code_width, scales=list(ladders[tokens]), phis=count("quantize.quant_resi.qresi_ls.", ".weight"),
    )  # fmt: skip
    return fill(CodecConfig, found, source, "give a file of VAR's VQ-VAE")


# ---- released -> ours -----------------------------------------------------------------------------------------------


def codec_to_ours(tensors: Mapping[str, Tensor], source: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A released VQ-VAE -> config.json and tensors of an ARGenSeg folder without a language model."""
    config = sizes_of(tensors, sum(side * side for side in SCALES_256), source)
    io.check_tensors(tensors, codec_tensors(config), source)
    with torch.device("meta"):
        method = ARGenSeg(None, None, Options(), VQVAE(config))
    return method.config(), {ours: tensors[name] for name, ours in codec_table(config).items()}


def model_to_ours(
    tensors: Mapping[str, Tensor], source: Path, tokenizer: Any
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A released model -> config.json and tensors of an ARGenSeg folder."""
    size, vocabulary, tied = opengvlab.read_config(source)
    state, config = to_ours(tensors, size, vocabulary, source, tied)
    with torch.device("meta"):
        backbone = Backbone(size, vocabulary, checkpoint.image_token_id(tokenizer))
        form = Form(conversion="released", wording="released")
        options = Options(system=opengvlab.SYSTEM, max_tiles=1)
        method = ARGenSeg(backbone, tokenizer, options, VQVAE(config), form)
    if vocabulary != method.low + method.visual_rows:
        raise UserError(
            f"{source}: {vocabulary} rows are not {method.low} text tokens and {method.visual_rows} visual ones; "
            "copy the tokenizer that belongs to these weights."
        )
    io.check_tensors(state, method.state_dict(), source)
    return method.config(), state


def to_ours(
    tensors: Mapping[str, Tensor], size: BackboneSize, vocabulary: int, source: Path, tied: bool = False
) -> tuple[dict[str, Tensor], CodecConfig]:
    """Released names -> ours, and the sizes of the VQ-VAE among them. Raises UserError for other names."""
    tensors = {name: tensor for name, tensor in tensors.items() if not REPEATED.match(name)}
    pictures = {n.removeprefix(RELEASED_CODEC): t for n, t in tensors.items() if n.startswith(RELEASED_CODEC)}
    absent = [name for name in OWN if name not in tensors]
    if absent or not pictures:
        raise UserError(f"{source}: lacks {(absent or [RELEASED_CODEC + '*'])[0]}; it is not a model of ARGenSeg.")
    slots = io.sizes_in(tensors, "pos_1LC", 3, source, "a model of ARGenSeg")[1]
    config = sizes_of(pictures, slots, source)
    io.check_tensors(pictures, codec_tensors(config), source)
    rest = {n: t for n, t in tensors.items() if n not in OWN and not n.startswith(RELEASED_CODEC)}
    state = {name: tensors[name] for name in OWN}
    state |= {ours: tensors[name] for name, ours in codec_table(config, RELEASED_CODEC).items()}
    native = opengvlab.to_native(rest, size, vocabulary, source, tied)
    return state | {BACKBONE + name: tensor for name, tensor in native.items()}, config


# ---- ours -> released -----------------------------------------------------------------------------------------------


def to_released(state: Mapping[str, Tensor], size: BackboneSize, config: CodecConfig) -> dict[str, Tensor]:
    """Bit for bit the inverse of to_ours."""
    native = {n.removeprefix(BACKBONE): t for n, t in state.items() if n.startswith(BACKBONE)}
    tensors = {name: state[name] for name in OWN} | opengvlab.to_original(native, size)
    return tensors | {name: state[ours] for name, ours in codec_table(config, RELEASED_CODEC).items()}


def _release(source: Path, config: dict[str, Any], target: Path) -> Path:
    state = io.read_tensors(source)
    with torch.device("meta"):
        method = ARGenSeg.from_config(config, source)
    io.check_tensors(state, method.state_dict(), source)
    sizes = method.codec.config
    if target.suffix in io.FILES:
        return io.write_file(target, {name: state[ours] for name, ours in codec_table(sizes).items()})
    if method.backbone is None:
        raise UserError(f"{source}: is a VQ-VAE alone; give a target that ends in .pth or .safetensors.")
    form = method.form
    if (form.head, form.intra_scale) != ("tokens", "causal") or sizes.scales not in (SCALES_256, SCALES_512):
        raise UserError(f"{source}: is a variant that the released code cannot run; keep it in this project's form.")
    settings = opengvlab.original_config(method.backbone.size, method.backbone.vocabulary, "InternVLGenSeg")
    return io.write_folder(target, settings, to_released(state, method.backbone.size, sizes), method.tokenizer)
