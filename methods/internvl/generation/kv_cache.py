"""The language model over keys and values that are allocated once: the fast way of decoding.

The layers are transformers' own modules (Qwen2's and Llama's have the same names); only the pass over them is written
here, without the masks, containers and dispatch that cost a small model more than its arithmetic. Every operation has a
fixed shape and none looks at a value, so that a pass can be recorded as a CUDA graph.

Shapes: B rows, n tokens of this pass, m keys so far with this pass's, D width, H heads, G key heads, d head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.backends import cuda
from torch.nn import functional as F

from methods.internvl.generation.joined import Joined, groups

SPARE = 256  # keys that are allocated beyond those needed now, and their unit, so that few passes enlarge a cache
ALIGNED = 16  # numbers of a row of a mask


class Stepper:
    """One batch's keys and values. `run` appends; `length` keys exist, and may be set back to forget the last ones."""

    def __init__(self, language_model: nn.Module):
        self.model = language_model
        self.length = 0
        self.products = [tuple(map(Joined, groups(layer))) for layer in language_model.layers]
        self.keys: list[Tensor] = []  # per layer [B, G, capacity, d]
        self.values: list[Tensor] = []

    def run(self, x: Tensor, positions: Tensor, seen: Tensor | None, causal: bool = False) -> Tensor:
        """Embeddings [B, n, D] at positions [B, n] -> last hidden states [B, n, D].

        seen bool [B or 1, 1, n, m] says which keys each token sees; None means all, or with `causal` (first pass only)
        those up to itself.
        """
        cos, sin = self.model.rotary_emb(x, positions)
        turn = cos.unsqueeze(1), sin.unsqueeze(1)
        mask = None
        if seen is not None:
            mask = additive(seen, x).repeat(1, 1, self.model.layers[0].self_attn.num_key_value_groups, 1)
        for number, layer in enumerate(self.model.layers):
            x = x + self._attend(layer.self_attn, rms_norm(layer.input_layernorm, x), turn, number, mask, causal)
            gate, up = self.products[number][1](rms_norm(layer.post_attention_layernorm, x))
            x = x + layer.mlp.down_proj(F.silu(gate) * up)
        self.length += x.shape[1]
        return rms_norm(self.model.norm, x)

    def taken(self, rows: Tensor) -> Stepper:
        """Another batch that goes on from rows (int64 [B]) of this one."""
        other = Stepper(self.model)
        other.length = self.length
        other.keys, other.values = ([each[rows] for each in store] for store in (self.keys, self.values))
        return other

    def _attend(self, part, x, turn, number, mask, causal) -> Tensor:
        batch, count, _ = x.shape
        q, k, v = (each.view(batch, count, -1, part.head_dim).transpose(1, 2) for each in self.products[number][0](x))
        q, k = rotate(q, *turn), rotate(k, *turn)
        k, v = self._remember(self.keys, number, k), self._remember(self.values, number, v)
        y = attention(q, k, v, mask, causal)
        return part.o_proj(y.transpose(1, 2).flatten(2))

    def _remember(self, store: list[Tensor], number: int, fresh: Tensor) -> Tensor:
        """Append [B, G, n, d] of one layer -> all so far [B, G, m, d]."""
        end = self.length + fresh.shape[2]
        if number == len(store):
            store.append(self._allocate(fresh, room(end)))
        elif store[number].shape[2] < end:
            store[number] = F.pad(store[number], (0, 0, 0, room(end) - store[number].shape[2]))
        store[number][:, :, self.length : end] = fresh
        return store[number][:, :, :end]

    def _allocate(self, fresh: Tensor, capacity: int) -> Tensor:
        """Room for `capacity` keys like those of [B, G, n, d]."""
        return fresh.new_empty(*fresh.shape[:2], capacity, fresh.shape[3])


def room(keys: int) -> int:
    """How many keys are allocated where this many are needed."""
    return whole(keys) + SPARE


def whole(keys: int) -> int:
    """The next multiple of SPARE."""
    return -(-keys // SPARE) * SPARE


def additive(seen: Tensor, x: Tensor) -> Tensor:
    """A bool mask as what is added to the logits, 0 or -inf, in the precision in which attention to states x runs: the
    kernels would make this of it again in every layer. Rows begin at multiples of ALIGNED, as CUDA's ask."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    keys = seen.shape[-1]
    mask = torch.zeros(*seen.shape[:-1], -(-keys // ALIGNED) * ALIGNED, dtype=dtype, device=x.device)[..., :keys]
    return mask.masked_fill_(~seen, -torch.inf)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """q [B, H, n, d] on k and v [B, G, m, d] -> [B, H, n, d].

    But for the first pass, heads that share keys become further queries of those keys, so that no key is copied; the
    additive `mask` [B or 1, 1, H / G * n, m] is repeated for them.
    """
    if causal:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    batch, heads, count, width = q.shape
    folded = q.reshape(batch, k.shape[1], heads // k.shape[1] * count, width)
    return F.scaled_dot_product_attention(folded, k, v, attn_mask=mask).reshape(batch, heads, count, width)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on [B, heads, n, d] with cos and sin [B, 1, n, d]."""
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat([-high, low], -1) * sin


def rms_norm(part: nn.Module, x: Tensor) -> Tensor:
    return F.rms_norm(x, part.weight.shape, part.weight, part.variance_epsilon)


@contextmanager
def without_cudnn_attention() -> Iterator[None]:
    """Within, attention is left to the other kernels: cuDNN makes a plan for every length that it has not met, and in
    decoding nearly every pass has another one."""
    before = cuda.cudnn_sdp_enabled()
    cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        cuda.enable_cudnn_sdp(before)
