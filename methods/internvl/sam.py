"""SAM as people have it: transformers' folder, Meta's file, or the `sam.pth` of HiMTok's release.

Meta's file names its tensors image_encoder.*, prompt_encoder.* and mask_decoder.*. HiMTok's has two point embeddings
instead of four, and in place of the mask-prompt convolutions a stack of its own (`mask_downscaling2`), which
`MaskStack` is. Both become transformers' SamModel through an explicit table of names; sizes are read off the shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn
from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig
from transformers.models.sam.modeling_sam import SamLayerNorm

from methods.base import UserError
from methods.files import printable, read_object
from methods.internvl.checkpoint import io

FILES = ("*.safetensors", "*.pth", "*.pt", "*.bin")
WHAT = "a SAM"
HEADS = 8  # of the mask decoder, in all public sizes; no tensor tells
EPS = 1e-5  # of the mask decoder's layer norms in Meta's code; transformers has 1e-6
STACK, REPLACED = "prompt_encoder.mask_downscaling2.", "prompt_encoder.mask_downscaling."

NAMES = tuple(
    (re.compile(rf"^{theirs}"), ours)
    for theirs, ours in (
        (r"image_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
        (r"image_encoder\.blocks\.(\d+)\.norm(\d)\.", r"vision_encoder.layers.\1.layer_norm\2."),
        (r"image_encoder\.blocks\.", "vision_encoder.layers."),
        (r"image_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
        (r"image_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
        (r"image_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
        (r"image_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
        (r"image_encoder\.", "vision_encoder."),
        (r"prompt_encoder\.pe_layer\.\w+", "shared_image_embedding.positional_embedding"),
        (r"prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
        (r"prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
        (r"prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
        (r"prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
        (r"prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
        (r"prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
        (r"mask_decoder\.transformer\.layers\.(\d+)\.norm(\d)\.", r"mask_decoder.transformer.layers.\1.layer_norm\2."),
        (r"mask_decoder\.transformer\.norm_final_attn\.", "mask_decoder.transformer.layer_norm_final_attn."),
        (r"mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
        (r"mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
        (r"mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    )
)
HEAD = re.compile(r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.(\d+)\.(\w+)$")


class Sam(NamedTuple):
    """stack: the mask-prompt convolutions of HiMTok's release; None for any other SAM."""

    model: SamModel
    stack: MaskStack | None


class MaskStack(nn.Sequential):
    """HiMTok's mask-prompt convolutions: mask logits [B, 1, M, M] -> [B, C, M / 4, M / 4]."""

    def __init__(self, width: int, channels: int = 16):
        super().__init__(
            nn.Conv2d(1, channels // 4, 7, 2, 3), SamLayerNorm(channels // 4, data_format="channels_first"), nn.SiLU(),
            nn.Conv2d(channels // 4, channels, 7, 2, 3), SamLayerNorm(channels, data_format="channels_first"),
            nn.SiLU(), nn.Conv2d(channels, width, 7, 1, 3),
        )  # fmt: skip


def load_sam(place: Path) -> Sam:
    """The SAM in a file, or in a folder of transformers' layout or with one file of weights; safetensors, or what
    torch.save wrote without code in it. Raises UserError, naming the tensor, for anything else."""
    place = Path(place)
    if is_native(place):
        return Sam(_native(place), None)
    source = weights_file(place)
    return from_tensors(io.read_file(source), source)


def is_native(place: Path) -> bool:
    """Whether a folder holds a SAM in transformers' layout."""
    config = place / "config.json"
    return config.is_file() and read_object(config, io.COPY).get("model_type") == "sam"


def weights_file(place: Path) -> Path:
    """The file of a SAM's weights: `place` itself, or what a folder has that is called sam, or its only one."""
    if place.is_file():
        return place
    found = sorted(path for pattern in FILES for path in place.glob(pattern))
    found = [path for path in found if path.stem == "sam"] or found
    if len(found) != 1:
        there = f"{len(found)} files of weights and none is called sam" if found else "no SAM is there"
        raise UserError(f"{printable(place)}: {there}; give sam.pth or the folder of a SAM in transformers' layout.")
    return found[0]


def _native(folder: Path) -> SamModel:
    try:
        sam, report = SamModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # damaged files fail in transformers with any exception
        reason = (str(error) or repr(error)).splitlines()[0]
        raise UserError(f"{folder}: no usable SAM ({reason}); copy its folder again.") from None
    wrong = sorted([*report["missing_keys"], *report["unexpected_keys"], *map(str, report["mismatched_keys"])])
    if wrong:
        raise UserError(f"{folder}: {wrong[0]} does not fit this SAM; copy its folder again.")
    return sam


# ---- Meta's layout and HiMTok's -------------------------------------------------------------------------------------


def from_tensors(tensors: Mapping[str, Tensor], source: Path) -> Sam:
    """A SAM of Meta's or HiMTok's names, with or without `sam.` in front of them."""
    tensors = {name.removeprefix("sam."): tensor.float() for name, tensor in tensors.items()}
    stack = None
    if any(name.startswith(STACK) for name in tensors):
        stack = _stack({n.removeprefix(STACK): t for n, t in tensors.items() if n.startswith(STACK)}, source)
        tensors = {n: t for n, t in tensors.items() if not n.startswith((STACK, REPLACED))}
    model = SamModel(sizes_of(tensors, source))
    ours = {_renamed(name): tensor for name, tensor in tensors.items()}
    wanted = {name: tensor for name, tensor in model.state_dict().items() if name not in _unsaved(stack)}
    io.check_tensors(ours, wanted, source)
    model.load_state_dict(ours, strict=False)
    model.prompt_encoder.shared_embedding.positional_embedding = model.shared_image_embedding.positional_embedding
    return Sam(model, stack)


def _unsaved(stack: MaskStack | None) -> set[str]:
    """Tensors of the model that the file has no place for: what is tied, and convolutions that were replaced."""
    mask_embed = [f"{layer}.{kind}" for layer in ("conv1", "layer_norm1", "conv2", "layer_norm2", "conv3")
                  for kind in ("weight", "bias")]  # fmt: skip
    replaced = {f"prompt_encoder.mask_embed.{name}" for name in mask_embed} if stack is not None else set()
    return replaced | {"prompt_encoder.shared_embedding.positional_embedding"}


def _stack(tensors: Mapping[str, Tensor], source: Path) -> MaskStack:
    width, channels = io.sizes_in(tensors, "6.weight", 4, source, "HiMTok's SAM")[:2]
    stack = MaskStack(width, channels)
    io.check_tensors(tensors, stack.state_dict(), source)
    stack.load_state_dict(tensors)
    return stack


def _renamed(name: str) -> str:
    """transformers' name of a tensor."""
    head = HEAD.match(name)
    if head:
        layer = {"0": "proj_in", "1": "layers.0", "2": "proj_out"}.get(head[2], f"layers.{head[2]}")
        return f"{head[1]}.{layer}.{head[3]}"
    pattern, ours = next((each for each in NAMES if each[0].match(name)), (None, ""))
    return pattern.sub(ours, name) if pattern else name


def sizes_of(tensors: Mapping[str, Tensor], source: Path) -> SamConfig:
    """The configuration of a SAM of Meta's names. Raises UserError naming what is not there."""

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        return tuple(io.sizes_in(tensors, name, dimensions, source, WHAT))

    def count(before: str, after: str) -> int:
        return next(i for i in range(len(tensors) + 1) if f"{before}{i}{after}" not in tensors)

    width, _, patch, _ = shape("image_encoder.patch_embed.proj.weight", 4)
    grid, layers = shape("image_encoder.pos_embed", 4)[1], count("image_encoder.blocks.", ".norm1.weight")
    reaches = [shape(f"image_encoder.blocks.{i}.attn.rel_pos_h", 2) for i in range(layers)]  # 2 * window - 1 rows
    if not reaches:
        raise UserError(f"{source}: lacks image_encoder.blocks.0.norm1.weight; it is not {WHAT}.")
    windows = [(rows + 1) // 2 for rows, _ in reaches]
    hidden = shape("mask_decoder.iou_token.weight", 2)[1]
    cross = shape("mask_decoder.transformer.final_attn_token_to_image.q_proj.weight", 2)[0]
    vision = SamVisionConfig(
        hidden_size=width, output_channels=hidden, num_hidden_layers=layers, patch_size=patch, image_size=grid * patch,
        num_attention_heads=max(1, width // reaches[0][1]), window_size=min(windows),
        mlp_dim=shape("image_encoder.blocks.0.mlp.lin1.weight", 2)[0],
        global_attn_indexes=[i for i, window in enumerate(windows) if window == grid],
        num_pos_feats=shape("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", 2)[1],
    )  # fmt: skip
    prompt = SamPromptEncoderConfig(
        hidden_size=hidden, image_size=grid * patch, patch_size=patch, mask_input_channels=_mask_channels(tensors),
        num_point_embeddings=count("prompt_encoder.point_embeddings.", ".weight"),
    )  # fmt: skip
    decoder = SamMaskDecoderConfig(
        hidden_size=hidden, mlp_dim=shape("mask_decoder.transformer.layers.0.mlp.lin1.weight", 2)[0],
        num_hidden_layers=count("mask_decoder.transformer.layers.", ".norm1.weight"), num_attention_heads=HEADS,
        attention_downsample_rate=max(1, hidden // cross), layer_norm_eps=EPS,
        num_multimask_outputs=shape("mask_decoder.mask_tokens.weight", 2)[0] - 1,
        iou_head_hidden_dim=shape("mask_decoder.iou_prediction_head.layers.0.weight", 2)[0],
    )  # fmt: skip
    return SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)


def _mask_channels(tensors: Mapping[str, Tensor]) -> int:
    """Channels before the last of the mask-prompt convolutions; the usual number where they were replaced."""
    last = tensors.get(f"{REPLACED}6.weight")
    return last.shape[1] if last is not None and last.ndim == 4 else 16
