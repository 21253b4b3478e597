"""The official HiMTok checkpoints <-> this project's folders: the mask tokenizer alone, or the whole model, which holds
it as `mask_decoder.*` (methods/internvl/checkpoint/conversion.py)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from methods.base import UserError
from methods.files import fill
from methods.himtok.config import BOX_SCALE, HierarchyConfig, MaskTokenizerConfig
from methods.himtok.mask_tokenizer import MaskTokenizer
from methods.himtok.model import HiMTok
from methods.himtok.processor import HiMTokProcessor
from methods.himtok.prompts import PromptTemplate
from methods.internvl import checkpoint
from methods.internvl.backbone import Backbone
from methods.internvl.checkpoint import io, opengvlab
from methods.internvl.checkpoint.conversion import BACKBONE, TOKENIZER, Conversion, count, table
from methods.internvl.config import ProcessorConfig

OFFICIAL_TOKENIZER = "mask_decoder."  # of the whole model; the tokenizer's own file has no prefix
HEAD_WIDTH = 64  # of every named size (small 512 / 8 ... large 1024 / 16); no tensor tells the number of heads
ARCHITECTURE = "InternVLWithHiMTok"
MAX_TILES = 4  # of the official evaluation


# ---- names ----------------------------------------------------------------------------------------------------------


def tokenizer_tensors(config: MaskTokenizerConfig) -> dict[str, Tensor]:
    """The tensors of a mask tokenizer, without memory."""
    with torch.device("meta"):
        return MaskTokenizer(config).state_dict()


def sizes_of(tensors: Mapping[str, Tensor], source: Path) -> MaskTokenizerConfig:
    """The configuration of an official tokenizer, read off its shapes. Raises UserError naming what is not there."""

    def shape(name: str, dimensions: int) -> torch.Size:
        return io.sizes_in(tensors, name, dimensions, source, "a HiMTok mask tokenizer")

    patch = shape("encoder.patch_embed.weight", 4)[-1]
    levels = count(tensors, "pixel_decoder.up.", ".block.0.conv2.weight")
    base = shape("pixel_decoder.conv_out.weight", 4)[1]
    widths = [shape(f"pixel_decoder.up.{i}.block.0.conv2.weight", 4)[0] for i in range(levels)]
    (latents, width), (wide,) = shape("latent_tokens", 2), shape("decoder.ln_pre.weight", 1)
    codes, code_width = shape("quantize.embedding.weight", 2)
    blocks = count(tensors, "pixel_decoder.up.0.block.", ".conv1.weight")
    middle = count(tensors, "pixel_decoder.mid.", ".conv1.weight")
    found = dict(
        resolution=math.isqrt(shape("encoder.positional_embedding", 2)[0] - 1) * patch, patch=patch, width=width,
        encoder_layers=count(tensors, "encoder.transformer.", ".ln_1.weight"), heads=max(1, width // HEAD_WIDTH),
        decoder_layers=count(tensors, "decoder.transformer.", ".ln_1.weight"), decoder_width=wide,
        decoder_heads=max(1, wide // HEAD_WIDTH), latents=latents, codes=codes, code_width=code_width,
        ffn_out=shape("decoder.ffn.2.weight", 4)[0], pixel_base=base,
        pixel_multipliers=[width // base for width in widths], pixel_blocks=blocks,
        pixel_mid_blocks=None if middle == blocks else middle, encoder_layout="official", code_space="official",
        mask_resize="official",
    )  # fmt: skip
    return fill(MaskTokenizerConfig, found, source, "give a file of HiMTok's mask tokenizer")


# ---- official -> ours -----------------------------------------------------------------------------------------------


def tokenizer_to_ours(tensors: Mapping[str, Tensor], source: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An official tokenizer -> config.json and tensors of a HiMTok mask tokenizer's folder."""
    sizes = sizes_of(tensors, source)
    io.check_tensors(tensors, tokenizer_tensors(sizes), source)
    config = checkpoint.describe_mask_tokenizer(HiMTok.name, sizes)
    return config, {ours: tensors[name] for name, ours in table(tokenizer_tensors(sizes)).items()}


def model_to_ours(
    tensors: Mapping[str, Tensor], source: Path, tokenizer: Any
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An official model -> config.json and tensors of a HiMTok folder."""
    size, vocabulary, tied = opengvlab.read_config(source)
    masks = {n.removeprefix(OFFICIAL_TOKENIZER): t for n, t in tensors.items() if n.startswith(OFFICIAL_TOKENIZER)}
    if not masks:
        raise UserError(f"{source}: holds no {OFFICIAL_TOKENIZER}* tensors; give a HiMTok model, not an InternVL2.5.")
    sizes = sizes_of(masks, source)
    io.check_tensors(masks, tokenizer_tensors(sizes), source)
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(OFFICIAL_TOKENIZER)}
    native = opengvlab.to_native(rest, size, vocabulary, source, tied)
    own = ProcessorConfig(system=opengvlab.SYSTEM, max_tiles=MAX_TILES, box_scale=BOX_SCALE)
    with torch.device("meta"):
        backbone = Backbone(size, vocabulary, checkpoint.image_token_id(tokenizer))
        processor = HiMTokProcessor(tokenizer, size, own, sizes, PromptTemplate("official"))
        model = HiMTok(backbone, processor, MaskTokenizer(sizes), HierarchyConfig("official"))
    ours = {TOKENIZER + n: t for n, t in masks.items()} | {BACKBONE + n: t for n, t in native.items()}
    io.check_tensors(ours, model.state_dict(), source)
    return model.config(), ours


# ---- ours -> official -----------------------------------------------------------------------------------------------


def _to_official(source: Path, config: dict[str, Any], target: Path) -> Path:
    tensors = io.read_tensors(source)
    sizes = checkpoint.part(config, "mask_tokenizer", MaskTokenizerConfig, source)
    if (sizes.encoder_layout, sizes.code_space) != ("official", "official"):
        raise UserError(
            f"{source}: its mask tokenizer has encoder_layout {sizes.encoder_layout} and code_space "
            f"{sizes.code_space}, which the official code cannot run; train one with both set to official."
        )
    wrong = [heads for heads, width in ((sizes.heads, sizes.width), (sizes.decoder_heads, sizes.decoder_width)) if
             heads and heads != max(1, (width or sizes.width) // HEAD_WIDTH)]  # fmt: skip
    if wrong:
        raise UserError(
            f"{source}: its mask tokenizer has {wrong[0]} heads, which an official file cannot tell; train one whose "
            f"heads have {HEAD_WIDTH} values each."
        )
    if target.suffix in io.FILES:
        io.check_tensors(io.under(TOKENIZER, tensors), tokenizer_tensors(sizes), source)
        return io.write_file(target, {name: tensors[ours] for name, ours in table(tokenizer_tensors(sizes)).items()})
    if config.get("backbone") is None:
        raise UserError(f"{source}: is a mask tokenizer alone; give a target that ends in .pth or .safetensors.")
    with torch.device("meta"):
        model = HiMTok.from_config(config, source)
    io.check_tensors(tensors, model.state_dict(), source)
    official = opengvlab.to_original(io.under(BACKBONE, tensors), model.backbone.size, source)
    official |= {name: tensors[ours] for name, ours in table(tokenizer_tensors(sizes), OFFICIAL_TOKENIZER).items()}
    original = opengvlab.original_config(model.backbone.size, model.backbone.vocabulary, ARCHITECTURE)
    return io.write_folder(target, original, official, model.processor.tokenizer)


CONVERSION = Conversion(HiMTok.name, OFFICIAL_TOKENIZER, tokenizer_to_ours, model_to_ours, _to_official)
convert, official = CONVERSION.convert, CONVERSION.official
