"""The released HiMTok checkpoints <-> this project's folders, through an explicit table of names.

Released forms: the mask tokenizer alone (one `.pth` or `.safetensors` file), or the whole model (a folder in
InternVL2.5's original layout that holds the tokenizer as `mask_decoder.*`). Every tensor is used and keeps its dtype
and its bits; a missing, unexpected or misshapen one is an error that names it. Files are memory-mapped, so that a
conversion needs the memory of one shard, not of the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from methods.base import UserError
from methods.files import fill
from methods.himtok.hierarchy import HierarchyConfig
from methods.himtok.mask_tokenizer import CodecConfig, MaskTokenizer
from methods.himtok.model import BOX_SCALE, HiMTok
from methods.himtok.prompts import Templates
from methods.internvl import checkpoint
from methods.internvl.backbone import Backbone
from methods.internvl.checkpoint import io, opengvlab
from methods.internvl.method import Options
from methods.internvl.vocabulary import load_tokenizer

RELEASED_CODEC = "mask_decoder."  # of the whole model; the tokenizer's own file has no prefix
CODEC, BACKBONE = "codec.", "backbone.native."
HEAD_WIDTH = 64  # of every named size (small 512 / 8 ... large 1024 / 16); no tensor tells the number of heads
ARCHITECTURE = "InternVLWithHiMTok"
MAX_TILES = 4  # of the released evaluation


def convert(source: Path, target: Path) -> Path:
    """Released -> ours or back, by what `source` is -> the file or folder written.

    A released file or folder becomes our folder `target`. Our folder becomes a released folder, or the tokenizer's
    file alone if `target` ends in .pth or .safetensors. Raises UserError for damaged or unfitting input.
    """
    source, target = Path(source), Path(target)
    io.check_places(source, target)
    if source.is_file():
        return io.write_folder(target, *tokenizer_to_ours(io.read_file(source), source), None)
    config = io.read_settings(source)
    if config.get("method") == HiMTok.name:
        return _release(source, config, target)
    tokenizer = load_tokenizer(source)
    return io.write_folder(target, *model_to_ours(io.read_tensors(source), source, tokenizer), tokenizer)


# ---- names ----------------------------------------------------------------------------------------------------------


def codec_table(config: CodecConfig, prefix: str = "") -> dict[str, str]:
    """Released name -> ours, of every tensor of a mask tokenizer."""
    return {prefix + name: CODEC + name for name in codec_tensors(config)}


def codec_tensors(config: CodecConfig) -> dict[str, Tensor]:
    """The tensors of a mask tokenizer, without memory."""
    with torch.device("meta"):
        return MaskTokenizer(config).state_dict()


def sizes_of(tensors: Mapping[str, Tensor], source: Path) -> CodecConfig:
    """The configuration of a released tokenizer, read off its shapes. Raises UserError naming what is not there."""

    def shape(name: str, dimensions: int) -> torch.Size:
        return io.sizes_in(tensors, name, dimensions, source, "a HiMTok mask tokenizer")

    def count(before: str, after: str) -> int:
        return next(i for i in range(len(tensors) + 1) if f"{before}{i}{after}" not in tensors)

    patch = shape("encoder.patch_embed.weight", 4)[-1]
    levels = count("pixel_decoder.up.", ".block.0.conv2.weight")
    base = shape("pixel_decoder.conv_out.weight", 4)[1]
    widths = [shape(f"pixel_decoder.up.{i}.block.0.conv2.weight", 4)[0] for i in range(levels)]
    (latents, width), (wide,) = shape("latent_tokens", 2), shape("decoder.ln_pre.weight", 1)
    codes, code_width = shape("quantize.embedding.weight", 2)
    blocks, middle = count("pixel_decoder.up.0.block.", ".conv1.weight"), count("pixel_decoder.mid.", ".conv1.weight")
    found = dict(
        resolution=math.isqrt(shape("encoder.positional_embedding", 2)[0] - 1) * patch, patch=patch, width=width,
        encoder_layers=count("encoder.transformer.", ".ln_1.weight"), heads=max(1, width // HEAD_WIDTH),
        decoder_layers=count("decoder.transformer.", ".ln_1.weight"), decoder_width=wide,
        decoder_heads=max(1, wide // HEAD_WIDTH), latents=latents, codes=codes, code_width=code_width,
        ffn_out=shape("decoder.ffn.2.weight", 4)[0], pixel_base=base,
        pixel_multipliers=[width // base for width in widths], pixel_blocks=blocks,
        pixel_mid_blocks=None if middle == blocks else middle, encoder_layout="released", code_space="released",
    )  # fmt: skip
    return fill(CodecConfig, found, source, "give a file of HiMTok's mask tokenizer")


# ---- released -> ours -----------------------------------------------------------------------------------------------


def tokenizer_to_ours(tensors: Mapping[str, Tensor], source: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A released tokenizer -> config.json and tensors of a HiMTok folder without a language model."""
    config = sizes_of(tensors, source)
    io.check_tensors(tensors, codec_tensors(config), source)
    with torch.device("meta"):
        method = HiMTok(None, None, Options(box_scale=BOX_SCALE), MaskTokenizer(config), HierarchyConfig("released"))
    return method.config(), {ours: tensors[name] for name, ours in codec_table(config).items()}


def model_to_ours(
    tensors: Mapping[str, Tensor], source: Path, tokenizer: Any
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A released model -> config.json and tensors of a HiMTok folder."""
    size, vocabulary, tied = opengvlab.read_config(source)
    masks = {n.removeprefix(RELEASED_CODEC): t for n, t in tensors.items() if n.startswith(RELEASED_CODEC)}
    if not masks:
        raise UserError(f"{source}: holds no {RELEASED_CODEC}* tensors; give a HiMTok model, not an InternVL2.5.")
    config = sizes_of(masks, source)
    io.check_tensors(masks, codec_tensors(config), source)
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(RELEASED_CODEC)}
    native = opengvlab.to_native(rest, size, vocabulary, source, tied)
    with torch.device("meta"):
        backbone = Backbone(size, vocabulary, checkpoint.image_token_id(tokenizer))
        options = Options(system=opengvlab.SYSTEM, max_tiles=MAX_TILES, box_scale=BOX_SCALE)
        codec, hierarchy, templates = MaskTokenizer(config), HierarchyConfig("released"), Templates("released")
        method = HiMTok(backbone, tokenizer, options, codec, hierarchy, templates=templates, conversion="released")
    ours = {CODEC + n: t for n, t in masks.items()} | {BACKBONE + n: t for n, t in native.items()}
    io.check_tensors(ours, method.state_dict(), source)
    return method.config(), ours


# ---- ours -> released -----------------------------------------------------------------------------------------------


def _release(source: Path, config: dict[str, Any], target: Path) -> Path:
    tensors = io.read_tensors(source)
    with torch.device("meta"):
        method = HiMTok.from_config(config, source)
    io.check_tensors(tensors, method.state_dict(), source)
    sizes = method.codec.config
    if (sizes.encoder_layout, sizes.code_space) != ("released", "released"):
        raise UserError(
            f"{source}: its codec has encoder_layout {sizes.encoder_layout} and code_space {sizes.code_space}, which "
            f"the released code cannot run; train one with both set to released."
        )
    wrong = [heads for heads, width in ((sizes.heads, sizes.width), (sizes.decoder_heads, sizes.decoder_width)) if
             heads and heads != max(1, (width or sizes.width) // HEAD_WIDTH)]  # fmt: skip
    if wrong:
        raise UserError(
            f"{source}: its codec has {wrong[0]} heads, which a released file cannot tell; train one whose heads have "
            f"{HEAD_WIDTH} values each."
        )
    if target.suffix in io.FILES:
        return io.write_file(target, {name: tensors[ours] for name, ours in codec_table(sizes).items()})
    if method.backbone is None:
        raise UserError(f"{source}: is a mask tokenizer alone; give a target that ends in .pth or .safetensors.")
    native = {n.removeprefix(BACKBONE): t for n, t in tensors.items() if n.startswith(BACKBONE)}
    released = opengvlab.to_original(native, method.backbone.size, source)
    released |= {name: tensors[ours] for name, ours in codec_table(sizes, RELEASED_CODEC).items()}
    original = opengvlab.original_config(method.backbone.size, method.backbone.vocabulary, ARCHITECTURE)
    return io.write_folder(target, original, released, method.tokenizer)
