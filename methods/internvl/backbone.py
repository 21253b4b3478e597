"""The backbone as one module: vision tower, projector, language model and head of transformers' native InternVL.

Shapes: N tiles, P image tokens a tile, B rows, L tokens, D width of the language model, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import InternVLForConditionalGeneration
from transformers.cache_utils import Cache

from methods.internvl.config import BackboneSize, transformers_config
from methods.internvl.generation.joined import lay_together
from methods.internvl.tiles import MEAN, STD


class Backbone(nn.Module):
    """InternVL2.5 with the few entry points that training and decoding need.

    `vocabulary` counts rows of the embedding and of the head; it may exceed the tokenizer's length, because a
    method can own ids (an image's code book) that no text contains.
    """

    def __init__(self, size: BackboneSize, vocabulary: int, image_token_id: int):
        super().__init__()
        self.size = size
        self.image_token_id = image_token_id
        self.native = InternVLForConditionalGeneration(transformers_config(size, vocabulary, image_token_id))
        lay_together(self.language_model)

    @property
    def vocabulary(self) -> int:
        return self.native.lm_head.weight.shape[0]

    @property
    def width(self) -> int:
        return self.size.text_width

    @property
    def vision_tower(self) -> nn.Module:
        return self.native.model.vision_tower

    @property
    def projector(self) -> nn.Module:
        return self.native.model.multi_modal_projector

    @property
    def language_model(self) -> nn.Module:
        return self.native.model.language_model

    def initialise_from_scratch(self, seed: int) -> None:
        """Start values for training without a checkpoint.

        transformers leaves the vision tower's position embeddings at zero, which trains markedly worse from scratch.
        """
        tower = self.vision_tower.embeddings
        generator = torch.Generator(tower.cls_token.device).manual_seed(seed)
        for parameter in (tower.position_embeddings, tower.cls_token):
            nn.init.trunc_normal_(parameter, std=0.02, generator=generator)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding | nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02, generator=generator)

    def drop_path(self, rate: float) -> None:
        """Train the vision tower with stochastic depth: each of a layer's two residual branches is left out of an image
        with a probability that rises from 0 to `rate` over the layers (both papers: 0.1). Only while the tower is in
        training mode, which a frozen one is, too."""
        layers = self.vision_tower.encoder.layer
        for place, layer in enumerate(layers if rate else ()):
            share = rate * place / max(1, len(layers) - 1)
            layer.attention.register_forward_hook(DropPath(share))
            layer.dropout.register_forward_hook(DropPath(share))  # the last of the MLP's branch, but for its scale

    def patches(self, pixels: Tensor) -> Tensor:
        """[N, 3, S, S], normalised or uint8 -> the vision tower's patch features [N, (S / patch)^2, C], without the
        class token."""
        if pixels.dtype == torch.uint8:  # divided by tensors, because CUDA multiplies by the inverse of a number
            mean, std = (torch.tensor(each, device=pixels.device)[:, None, None] for each in (MEAN, STD))
            pixels = (pixels.float() / torch.full_like(mean, 255) - mean) / std
        return self.vision_tower(pixel_values=pixels).last_hidden_state[:, 1:]

    def project(self, patches: Tensor) -> Tensor:
        """Patch features -> image tokens [N, P, D]: pixel shuffle by 2, then the projector."""
        n, count, width = patches.shape
        side = int(count**0.5)
        shuffled = self.native.model.pixel_shuffle(patches.reshape(n, side, side, width), scale_factor=0.5)
        return self.projector(shuffled.reshape(n, count // 4, 4 * width))

    def embed(self, ids: Tensor) -> Tensor:
        """Ids [B, L] -> embeddings [B, L, D]."""
        return self.language_model.embed_tokens(ids)

    def place_images(self, embeddings: Tensor, ids: Tensor, image_tokens: Tensor) -> Tensor:
        """Put image tokens [sum of all placeholders, D] where ids hold the image placeholder, in reading order."""
        where = (ids == self.image_token_id).unsqueeze(-1)
        return embeddings.masked_scatter(where, image_tokens.to(embeddings.dtype))

    def run(
        self,
        embeddings: Tensor,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """One causal pass of the language model -> last hidden states [B, L, D].

        `mask` [B, keys so far] marks the keys that exist; None means all of them, which lets the fused kernel run
        (right padding needs no mask, because no real token looks to its right). A mask bool [B, 1, L, keys] replaces
        the causal one; one of `attention.sample_lengths` makes it causal within each sample of a packed row.
        """
        return self.language_model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state

    def head(self, hidden: Tensor, low: int = 0, high: int | None = None) -> Tensor:
        """Logits of vocabulary rows [low, high) for hidden states [..., D]; a slice costs only its own rows, unless
        adapters stand in place of the head, whose own forward is then needed."""
        head = self.native.lm_head
        if isinstance(head, nn.Linear):
            return nn.functional.linear(hidden, head.weight[low:high])
        return head(hidden)[..., low:high]

    @torch.no_grad()
    def resize_vocabulary(self, rows: int, seed: int = 0, known: int | None = None) -> None:
        """Make it `rows` rows, of which the first `known` (all that are there) keep their values: the others' output
        rows start as the mean of those (HiMTok and ARGenSeg releases), their input rows as that plus noise of 0.02,
        the initialiser's deviation."""
        old = self.vocabulary if known is None else min(known, self.vocabulary)
        if rows <= old:
            return
        generator = torch.Generator("cpu").manual_seed(seed)
        self.native.resize_token_embeddings(rows, mean_resizing=False)
        head, table = self.native.lm_head.weight, self.language_model.embed_tokens.weight
        head[old:] = head[:old].mean(0)
        noise = torch.randn(rows - old, table.shape[1], generator=generator, device="cpu") * 0.02
        table[old:] = table[:old].mean(0) + noise.to(table)


class DropPath:
    """A forward hook that leaves a module's output [N, ...] (or the first of several) out of some images: 0 with
    probability `rate`, else divided by 1 - rate. Draws from torch's global generator, only in training mode."""

    def __init__(self, rate: float):
        self.rate = rate

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if not module.training or not self.rate:
            return output
        branch, *more = output if isinstance(output, tuple) else (output,)
        shape = (len(branch), *[1] * (branch.ndim - 1))
        kept = torch.rand(shape, device=branch.device) >= self.rate
        branch = branch * (kept / (1 - self.rate)).to(branch.dtype)
        return (branch, *more) if isinstance(output, tuple) else branch


def meta_shapes(size: BackboneSize, rows: int) -> dict[str, Tensor]:
    """The native state dict of a backbone as tensors without memory."""
    with torch.device("meta"):
        return InternVLForConditionalGeneration(transformers_config(size, rows, 0)).state_dict()
