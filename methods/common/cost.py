"""A micro-batch as a planner describes it, and what a method says it costs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """`images`, with `samples` of `text` tokens of words each, of which `answer` are supervised, and `masks` of which
    the mask tokenizer sees. tiles: of each image, the thumbnail included; None: half of the most; infinite: the
    most."""

    images: int
    samples: int
    text: int
    answer: int
    masks: int
    tiles: float | None = None


@dataclass(frozen=True)
class Cost:
    """flops: of the forward pass and of what the backward pass needs. tokens: of all samples. Bytes: `kept`
    activations, `checkpointed` ones (the inputs of all layers and one layer's activations), `logits`, and `copies` of
    trained weights in bfloat16, which autocast makes once for a forward and a backward pass."""

    flops: float
    tokens: float
    kept: float
    checkpointed: float
    logits: float
    copies: float


@dataclass(frozen=True)
class AnsweringCost:
    """What answering a batch costs. flops: of reading and writing, and of decoding the masks. steps: forward passes of
    the language model that write a mask, each of which reads `streamed` bytes of weights. Bytes: `weights`, `cache` of
    keys and values, and `activations`, three of the largest at a time."""

    flops: float
    steps: int
    streamed: float
    weights: float
    cache: float
    activations: float
