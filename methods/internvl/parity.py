"""The backbone against vectors of the original InternVL chat model, in its original layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from methods.internvl.backbone import Backbone
from methods.internvl.chat import IGNORED
from methods.internvl.checkpoint.io import read_tensors
from methods.internvl.checkpoint.opengvlab import join, key_table, read_config, to_native, to_original
from methods.parity import Check, close, read, same

LOGIT, FEATURE, LOSS, GRADIENT = 5e-5, 1e-5, 1e-5, 1e-5  # tolerances


def recognises(folder: Path) -> bool:
    """Whether the folder holds a model in the original layout together with its inputs and outputs."""
    return all((folder / name).is_file() for name in ("config.json", "model.safetensors", "io.safetensors"))


def load(folder: Path) -> Backbone:
    """A backbone with an original folder's weights."""
    size, vocabulary, _ = read_config(folder)
    token = json.loads((folder / "config.json").read_text())["img_context_token_id"]
    backbone = Backbone(size, vocabulary, token)
    backbone.native.load_state_dict(to_native(read_tensors(folder), size, vocabulary, folder))
    return backbone.eval()


def check(folder: Path) -> list[Check]:
    """Vision features, logits, loss, gradients, and the way back to the original names."""
    backbone, io = load(folder), read(folder, "io")
    seen = io["attention_mask"].bool()
    patches = backbone.patches(io["pixel_values"])
    features = backbone.project(patches)
    embeddings = backbone.embed(io["input_ids"])
    embeddings = backbone.place_images(embeddings, io["input_ids"], features.flatten(0, 1))
    logits = backbone.head(backbone.run(embeddings, io["attention_mask"], io["position_ids"]))
    loss = nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), io["labels"][:, 1:].flatten(), ignore_index=IGNORED
    )
    loss.backward()
    checks = [
        close("vision features", features, io["vit_embeds"], FEATURE),
        close("logits", logits[seen], io["logits"][seen], LOGIT),
        same("choices", logits[seen].argmax(-1), io["logits"][seen].argmax(-1)),
        close("loss", loss[None], io["loss"], LOSS),
    ]
    gradients = {n: p.grad for n, p in backbone.native.named_parameters()}
    for entry in key_table(backbone.size):
        if f"grad.{entry.original}" in io:
            ours = join([gradients[n] for n in entry.native], entry, backbone.size)
            checks.append(close(f"gradient of {entry.original}", ours, io[f"grad.{entry.original}"], GRADIENT))
    original = read_tensors(folder)
    back = to_original(backbone.native.state_dict(), backbone.size)
    equal = original.keys() == back.keys() and all(torch.equal(back[n], original[n]) for n in original)
    return [*checks, same("round trip of the weights", equal, True)]
