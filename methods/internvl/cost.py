"""What a micro-batch costs, before there is a machine: FLOPs, and the memory that waits for the backward pass.

The model's own modules run on torch's fake tensors, which have shapes and types but no content, under the same
autocast as in training. Layers are alike, so a model is measured with one and with two of them and extended.

Shapes: L tokens of a micro-batch's samples, D width, V vocabulary, M masks, R side of the mask tokenizer's grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from methods.common.cost import AnsweringCost, Cost, Load
from methods.flops import flop_counter
from methods.internvl.backbone import Backbone
from methods.internvl.model import LOGITS, InternVLModel

LOGIT_BYTES = 14  # of one logit: bfloat16, float32, its log-softmax, and the gradient of that


@dataclass(frozen=True)
class Part:
    """A piece of the forward pass. trained: whether gradients flow through it; stack: its equal layers, of width
    `width` at `positions` places."""

    run: Callable[[], Any]
    trained: bool
    stack: nn.ModuleList | None = None
    positions: int = 0
    width: int = 0


def estimate(trainee: nn.Module, load: Load, precision: torch.dtype) -> Cost:
    """Of a model that was built under FakeTensorMode, which must still be on; it is of no other use afterwards."""
    return total(trainee, load, precision, [])


@dataclass(frozen=True)
class Shape:
    """Tiles of an image, tokens of a sample, and how many of those are supervised."""

    tiles: int
    length: int
    supervised: int


def shape_of(model: InternVLModel, load: Load) -> Shape:
    """A load as this model's processor would cut and write it; every sample has a mask or none has."""
    processor, size = model.processor, model.backbone.size
    most = processor.config.max_tiles + (processor.config.max_tiles > 1)  # the thumbnail
    tiles = (most + 1) // 2 if load.tiles is None else min(load.tiles, most)
    block = len(processor.mask_block) if load.masks else 0
    length = round(tiles * size.tokens_per_tile) + load.text + block
    return Shape(max(1, round(tiles)), length, load.answer + block)


def trains(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


def total(trainee: nn.Module, load: Load, precision: torch.dtype, mask_tokenizer: Sequence[Part]) -> Cost:
    """The backbone's parts, where there is one, and those of a mask tokenizer."""
    parts, tokens, logits, head, copies = list(mask_tokenizer), 0, 0.0, 0.0, 0.0
    if isinstance(trainee, InternVLModel):
        backbone = trainee.backbone
        shape = shape_of(trainee, load)
        tokens, supervised = load.samples * shape.length, load.samples * shape.supervised
        parts += _parts(backbone, load, shape)
        head = 2.0 * supervised * backbone.width * backbone.vocabulary * (3 if trains(backbone) else 1)
        logits = float(min(supervised * backbone.vocabulary, LOGITS) * LOGIT_BYTES)
        copies = _cast(backbone) if precision == torch.bfloat16 else 0.0
    own = {p.untyped_storage()._cdata for p in trainee.parameters()}
    costs = [_measured(part, precision, own) for part in parts]
    flops, kept, checkpointed = (sum(each[i] for each in costs) for i in range(3))
    return Cost(flops + head, float(tokens), kept, checkpointed, logits, copies)


def answering(model: InternVLModel, load: Load, precision: torch.dtype, steps: int, length: int) -> AnsweringCost:
    """Of a model as `estimate` takes it. load: `answer` words are written around each mask of `length` tokens, which
    takes `steps` forward passes; `masks` is not looked at."""
    model.requires_grad_(False)
    size, tokenizer, head = model.backbone.size, model.mask_tokenizer, model.backbone.native.lm_head
    language = sum(p.numel() for module in (model.backbone.language_model, head) for p in module.parameters())
    masks = sum(p.numel() for p in tokenizer.parameters()) if isinstance(tokenizer, nn.Module) else 0
    weights = precision.itemsize * (sum(p.numel() for p in model.parameters()) - masks) + 4 * masks
    written = load.samples * (length + load.answer)
    with largest_output(model) as most, torch.no_grad():
        read = total(model, replace(load, masks=0), precision, [])
        with flop_counter() as counter:
            if tokenizer is not None and any(
                True for _ in tokenizer.parameters()
            ):  # others need no arithmetic to speak of
                tokenizer.decode_soft(torch.empty(load.samples, tokenizer.length, tokenizer.size))
    per_token = 2 * size.text_layers * size.text_kv_heads * (size.text_width // size.text_heads) * precision.itemsize
    flops = read.flops + 2.0 * language * written + counter.get_total_flops()
    cache = per_token * (read.tokens + written)
    return AnsweringCost(flops, steps, language * precision.itemsize, weights, cache, 3.0 * most[0])


@contextmanager
def largest_output(model: nn.Module) -> Iterator[list[int]]:
    """[bytes] of the largest tensor that a module of the model gives while the context is open."""
    most = [0]

    def look(module: nn.Module, given: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            most[0] = max(most[0], output.numel() * output.element_size())

    hooks = [module.register_forward_hook(look) for module in model.modules()]
    yield most
    for hook in hooks:
        hook.remove()


def _cast(module: nn.Module) -> float:
    """Make the weights of linear layers and convolutions what autocast makes of them -> bytes of the trained ones."""
    count = 0
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            for p in part.parameters(recurse=False):
                p.data = p.data.to(torch.bfloat16)
                count += p.numel() * p.requires_grad
    return 2.0 * count


def _parts(backbone: Backbone, load: Load, shape: Shape) -> list[Part]:
    size, tiles = backbone.size, load.images * shape.tiles
    places = (size.image_size // size.patch_size) ** 2
    seen = trains(backbone.vision_tower)
    projected = seen or trains(backbone.projector)
    pixels = torch.empty(tiles, 3, size.image_size, size.image_size)
    patches = torch.empty(tiles, places, size.vision_width, requires_grad=seen)
    embeddings = torch.empty(load.samples, shape.length, size.text_width, requires_grad=True)
    return [
        Part(
            lambda: backbone.patches(pixels), seen, backbone.vision_tower.encoder.layer, tiles * (places + 1),
            size.vision_width,
        ),
        Part(lambda: backbone.project(patches), projected),
        Part(
            lambda: backbone.run(embeddings), projected or trains(backbone.language_model),
            backbone.language_model.layers, load.samples * shape.length, size.text_width,
        ),
    ]  # fmt: skip


def _measured(part: Part, precision: torch.dtype, own: set[int]) -> tuple[float, float, float]:
    """(FLOPs, bytes kept, bytes kept with checkpointing) of a part."""
    if part.stack is None:
        flops, kept = _run(part, precision, own)
        return flops, kept, kept
    count, layers = len(part.stack), list(part.stack._modules.items())
    found = []
    for few in (1, 2):
        part.stack._modules = dict(layers[:few])
        found.append(_run(part, precision, own))
    part.stack._modules = dict(layers)
    (flops, kept), (more_flops, more_kept) = found
    layer = more_kept - kept
    inputs = count * part.positions * part.width * 4 if part.trained else 0  # the residual stream is float32
    return flops + (count - 1) * (more_flops - flops), kept + (count - 1) * layer, inputs + kept


def _run(part: Part, precision: torch.dtype, own: set[int]) -> tuple[float, float]:
    """(FLOPs with the backward pass, bytes that autograd keeps apart from the storages of parameters, `own`)."""
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    half = torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16)
    with flop_counter() as counter, half, saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.set_grad_enabled(part.trained):
            part.run()
    factor = 3.0 if part.trained else 1.0
    return counter.get_total_flops() * factor, float(sum(storage.nbytes() for storage in kept.values()))
