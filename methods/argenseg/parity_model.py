"""The model of the reference vectors: its tokenizer, and its weights, which are a function of their names."""

from __future__ import annotations

import ast
import hashlib
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from methods.argenseg.config import Variant
from methods.argenseg.mask_tokenizer import VQVAE
from methods.argenseg.model import ARGenSeg
from methods.argenseg.processor import ARGenSegProcessor
from methods.argenseg.state_dict import to_ours
from methods.base import UserError
from methods.files import read_object
from methods.internvl.backbone import Backbone
from methods.internvl.checkpoint import opengvlab
from methods.internvl.config import ProcessorConfig
from methods.parity import Check, read, same

OVERRIDES = "weight_overrides"


class ByteTokenizer:
    """The vectors' tokenizer: every byte has an id, special tokens are matched literally."""

    def __init__(self, facts: Mapping[str, Any]):
        self.special: dict[str, int] = facts["ids"]
        self.of_byte: list[int] = facts["byte_to_id"]
        self.text_size: int = facts["visual_first_id"]
        self.split = re.compile("(" + "|".join(map(re.escape, self.special)) + ")")

    def __len__(self) -> int:
        return self.text_size

    def get_vocab(self) -> dict[str, int]:
        return self.special

    def convert_tokens_to_ids(self, token: str) -> int | None:
        return self.special.get(token)

    def convert_ids_to_tokens(self, number: int) -> str | None:
        return next((token for token, known in self.special.items() if known == number), None)

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        ids: list[int] = []
        for piece in self.split.split(text):
            ids += [self.special[piece]] if piece in self.special else [self.of_byte[b] for b in piece.encode()]
        return ids


def load(folder: Path, facts: dict[str, Any]) -> tuple[ARGenSeg, list[Check]]:
    """The model of the vectors' sizes and weights, and whether these weights are the reference's."""
    rules = constants(folder)
    tensors, wrong = {}, []
    for name, entry in facts["weights"].items():
        tensors[name] = torch.from_numpy(made_weight(name, tuple(entry["shape"]), facts["seed"], rules))
        known = with_overrides(name, tensors[name], folder)
        if hashlib.sha256(known.numpy().tobytes()).hexdigest() != entry["sha256_f32_le"]:
            wrong.append(name)
    tokenizer, token = ByteTokenizer(facts), facts["ids"]["<IMG_CONTEXT>"]
    size, vocabulary, _ = opengvlab.parse_config(facts["config"], folder)
    state, config = to_ours(tensors, size, vocabulary, folder)
    backbone = Backbone(size, vocabulary, token)
    system = facts["inference"]["prompt"].split("system\n")[1].split("<|im_end|>")[0]
    processor = ARGenSegProcessor(tokenizer, size, ProcessorConfig(True, system, 1), config, Variant(masks=99))
    method = ARGenSeg(backbone, processor, VQVAE(config))
    method.load_state_dict(state)
    return method.eval(), [same(f"SHA-256 of {len(tensors)} made weights, those that differ", wrong, [])]


def reference_model(folder: Path) -> ARGenSeg:
    """MethodSpec.reference_model: the VQ-VAE beside the checkpoint is told by the shapes and digests in vq_vae.json.

    Raises UserError if the weights made here are not the reference's.
    """
    path = folder / "vq_vae.json"
    if not path.is_file():
        return ARGenSeg.from_pretrained(folder / "checkpoint")
    facts, rules = read_object(path, "copy the folder of reference runs again"), constants(folder)
    tensors = {}
    for name, entry in facts["tensors"].items():
        made = made_weight(facts["prefix"] + name, tuple(entry["shape"]), facts["seed"], rules)
        if hashlib.sha256(made.tobytes()).hexdigest() != entry["sha256"]:
            raise UserError(f"{path}: {name} as made here is not the reference's; copy the folder again.")
        tensors[name] = torch.from_numpy(made)
    with tempfile.TemporaryDirectory() as place:
        save_file(tensors, Path(place) / "vae.safetensors")
        return ARGenSeg.from_pretrained(folder / "checkpoint", Path(place) / "vae.safetensors")


def constants(folder: Path) -> dict[str, Any]:
    """Numbers assigned at the top of the folder's weights_recipe.py (which is read, not run), over the usual ones."""
    found = {"CODEBOOK_STD": 0.5, "OUT_GAIN": 2.0, "CONV_GAIN": {}}
    path = folder / "weights_recipe.py"
    for node in ast.parse(path.read_text()).body if path.is_file() else ():
        if isinstance(node, ast.Assign) and node.targets[0].id in found:
            found[node.targets[0].id] = ast.literal_eval(node.value)
    return found


def uniform(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """float64 numbers in -1..1 of 24 bits: splitmix64 over a counter that starts at a hash of seed and name."""
    step, first, second = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
    start = np.uint64(int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little"))
    with np.errstate(over="ignore"):
        z = start + np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * step
        z = (z ^ (z >> np.uint64(30))) * first
        z = (z ^ (z >> np.uint64(27))) * second
        z = z ^ (z >> np.uint64(31))
    return 2 * ((z >> np.uint64(40)).astype(np.float64) / float(1 << 24)).reshape(shape) - 1


def made_weight(name: str, shape: tuple[int, ...], seed: int, rules: Mapping[str, Any]) -> np.ndarray:
    """float32, scaled by the kind of tensor: matrices by their fan-in, norms around 1, small biases."""
    values, unit, last = uniform(name, shape, seed), 3.0**0.5, name.rpartition(".")[2]
    if name.endswith("ema_vocab_hit_SV"):
        values = np.zeros(shape)
    elif name.endswith("quantize.embedding.weight"):
        values = values * unit * rules["CODEBOOK_STD"]
    elif name == "word_embed.weight":
        values = values * unit * 0.35
    elif name in ("pos_1LC", "lvl_embed.weight") or last in ("class_embedding", "position_embedding"):
        values = values * unit * 0.5
    elif name.endswith("tok_embeddings.weight"):
        values = values * unit * 1.0
    elif last in ("ls1", "ls2"):
        values = 0.5 + 0.25 * values
    elif len(shape) == 1:
        values = 1.0 + 0.25 * values if last == "weight" else 0.1 * values
    elif len(shape) == 2:
        gain = rules["OUT_GAIN"] if name.endswith("language_model.output.weight") else 1.0
        values = values * unit * gain / shape[1] ** 0.5
    else:
        values = values * unit * rules["CONV_GAIN"].get(name, 1.0) / float(np.prod(shape[1:])) ** 0.5
    return values.astype(np.float32)


def with_overrides(name: str, tensor: Tensor, folder: Path) -> Tensor:
    """A tensor with the rows that the folder replaces (they make the model write the scripted text)."""
    rows = read(folder, OVERRIDES)
    if f"{name}.rows" not in rows:
        return tensor
    tensor = tensor.clone()
    tensor[rows[f"{name}.rows"]] = rows[f"{name}.values"]
    return tensor


def scripted(method: ARGenSeg, folder: Path, facts: dict[str, Any]) -> None:
    """Put the overrides in place; they belong to decoding, not to training."""
    released = opengvlab.to_original(method.backbone.native.state_dict(), method.backbone.size)
    released = {name: with_overrides(name, tensor, folder) for name, tensor in released.items()}
    method.backbone.native.load_state_dict(
        opengvlab.to_native(released, method.backbone.size, method.backbone.vocabulary, folder)
    )
