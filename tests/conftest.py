"""Tiny models, images and a dataset that need no download and no training.

Models are built once per session and handed out as copies, so that a test may change its own. Their weights are random
but large enough for every input to matter; `script` makes a model write chosen tokens without touching the engine.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.data.dataset import ExampleDataset
from methods.base import Example
from methods.registry import method_class, resolve, stage_spec

HIMTOK_SIZES = {
    "resolution": 64, "patch": 16, "width": 64, "encoder_layers": 1, "decoder_layers": 1, "heads": 4, "codes": 64,
    "ffn_out": 32, "pixel_base": 8, "pixel_multipliers": [1, 1, 1, 1, 1], "pixel_blocks": 1,
    "pixel_mid_blocks": 2,
}  # fmt: skip
ARGENSEG_SIZES = {"resolution": 64, "width": 32, "multipliers": [1, 1, 1], "blocks": 1, "codes": 128}
SHORT_SIZES = {"resolution": 32, "width": 32, "multipliers": [1, 1, 1, 1], "blocks": 1, "codes": 64,
               "scales": [1, 2, 3, 4]}  # fmt: skip
CORPUS = (
    "the red square on the left", "the large blue square", "a small green square in the middle", "the yellow one",
    "how many squares are there", "three squares on a grey ground", "what colour is it", "blue",
    "Where is it? Reply with a box.", "Segment it.", "Sure, the segmentation result: [[10, 20, 300, 999]].",
)  # fmt: skip
COLOURS = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 210)}
SCRIPTED = 12  # features that a script reserves


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The folder of reference vectors."""
    return Path(__file__).parent / "goldens"


# ---- images ---------------------------------------------------------------------------------------------------


def scene(number: int, width: int = 64, height: int = 48) -> list[Example]:
    """One image with a red, a green and a blue square -> one example for each."""
    rng = np.random.default_rng(number)
    pixels = np.full((height, width, 3), 90, np.uint8)
    boxes = {}
    for place, (name, colour) in enumerate(COLOURS.items()):
        side = int(rng.integers(8, width // 3 - 2))
        left, top = place * width // 3 + 1, int(rng.integers(0, height - side))
        pixels[top : top + side, left : left + side] = colour
        boxes[name] = (left, top, left + side, top + side)
    image = Image.fromarray(pixels)
    semantic = np.zeros((height, width), np.uint8)
    for i, (x1, y1, x2, y2) in enumerate(boxes.values()):
        semantic[y1:y2, x1:x2] = i + 1
    return [
        Example(
            image, (f"the {name} square", f"{name} one"), semantic == i + 1, tuple(map(float, boxes[name])),
            dataset="squares", split="val", image_id=number, ref_id=f"{number}-{name}", answer=name, semantic=semantic,
        )
        for i, name in enumerate(COLOURS)
    ]  # fmt: skip


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    """Three referents on each of two images of different size."""
    return scene(1) + scene(2, 90, 40)


class Squares(ExampleDataset):
    """A dataset of `scene`s."""

    def __init__(self, images: int):
        super().__init__([example for number in range(images) for example in scene(number)], "squares")


@pytest.fixture(scope="session")
def squares() -> Callable[[int], Squares]:
    """squares(n) -> a dataset of n images with three referents each."""
    return cache(Squares)


# ---- models -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def corpus() -> tuple[str, ...]:
    return CORPUS


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved backbone of size "tiny"."""
    folder = tmp_path_factory.mktemp("backbone")
    parts = {"size": "tiny", "vocabulary": 320}
    liven(method_class("boxes").build(parts, lambda: CORPUS)).save_pretrained(folder)
    return folder


def liven(method: Any) -> Any:
    """Random weights of a size at which attention, positions, codes and every input change the output."""
    import torch

    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if ("embed" in name and "word_embed" not in name) or name.endswith("pos_1LC"):
                parameter.normal_(0, 1, generator=generator)
            elif parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
    return method


@pytest.fixture(scope="session")
def build(backbone_folder: Path) -> Callable[..., Any]:
    """build(name, **config) -> a fresh copy of a model; `mask_tokenizer_config` defaults to a small one,
    `backbone=None` gives the mask tokenizer in its own training stage.

    For ARGenSeg `mask_tokenizer_config="short"` is one of 30 tokens instead of 680.
    """

    @cache
    def once(name: str, config: str) -> Any:
        values = json.loads(config)
        alone = name != "boxes" and "backbone" not in values and "start" not in values
        trainee = resolve(stage_spec(name, "tokenizer").trainee) if alone else method_class(name)
        return liven(trainee.build(values, lambda: CORPUS)).eval()

    def fresh(name: str, **config: Any) -> Any:
        from methods.internvl.generation.joined import lay_together

        if name == "boxes":
            config = {"size": "tiny", "vocabulary": 320} | config
        else:
            text = {"resolution": 32}
            small = {"himtok": HIMTOK_SIZES, "argenseg": ARGENSEG_SIZES, "textpolygon": text, "textrows": text}.get(
                name
            )
            sizes = config.get("mask_tokenizer_config", small)
            config |= {"mask_tokenizer_config": SHORT_SIZES if sizes == "short" else sizes} if sizes else {}
            config = {"backbone": str(backbone_folder)} | config
        config = {key: value for key, value in config.items() if value is not None}
        method = copy.deepcopy(once(name, json.dumps(config, sort_keys=True)))
        if getattr(method, "backbone", None) is not None:
            lay_together(method.backbone.language_model)  # as in every model that was not copied
        return method

    return fresh


@pytest.fixture
def himtok(build):
    return build("himtok")


@pytest.fixture
def argenseg(build):
    return build("argenseg", mask_tokenizer_config="short")


@pytest.fixture(params=["himtok", "argenseg"])
def writer(request, build):
    """Each method that writes masks, with a short mask vocabulary."""
    return build(request.param, **({"mask_tokenizer_config": "short"} if request.param == "argenseg" else {}))


def _script(method: Any, moves: Mapping[str | int, str | int]) -> Any:
    """Make a method's text a chain: after token X (text or id) comes token moves[X], whatever stands before.

    The last features of every hidden state are taken from the layers and carry nothing but the last token fed; the
    others stay as they are, so that mask tokens still depend on all that was read.
    """
    import torch

    backbone = method.backbone
    kept = backbone.width - SCRIPTED
    assert len(moves) <= SCRIPTED

    def number(token: str | int) -> int:
        ids = [token] if isinstance(token, int) else method.processor.tokenizer.encode(token, add_special_tokens=False)
        assert len(ids) == 1, f"{token!r} is not one token"
        return ids[0]

    with torch.no_grad():
        for layer in backbone.language_model.layers:
            layer.self_attn.o_proj.weight[kept:] = 0
            layer.mlp.down_proj.weight[kept:] = 0
        backbone.projector.linear_2.weight[kept:] = 0
        backbone.projector.linear_2.bias[kept:] = 0
        table, head = backbone.language_model.embed_tokens.weight, backbone.native.lm_head.weight
        table[:, kept:] = 0
        head[:, kept:] = 0
        if hasattr(method, "pos_1LC"):
            for parameter in (method.word_embed.weight, method.word_embed.bias):
                parameter[kept:] = 0
            method.lvl_embed.weight[:, kept:] = 0
            method.pos_1LC[..., kept:] = 0
        for i, (source, target) in enumerate(moves.items()):
            table[number(source), kept + i] = 8
            head[number(target), kept + i] = 100
    return method


@pytest.fixture(scope="session")
def script() -> Callable[..., Any]:
    """script(method, {token: next token}) -> the same method, whose text now follows this chain."""
    return _script


@pytest.fixture(scope="session")
def writing() -> Callable[[Any], Any]:
    """writing(method) -> the same method, which now answers every prompt with `: <mask>.`."""

    def taught(method: Any) -> Any:
        stop = "<|im_end|>"
        return _script(method, {"\n": ":", ":": method.processor.start_id, method.processor.end_id: ".", ".": stop})

    return taught


# ---- SAM ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def random_sam() -> Callable[..., Any]:
    """random_sam(side, width) -> a tiny SAM of transformers with random weights."""
    import torch
    from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

    def make(side: int = 64, width: int = 32) -> Any:
        torch.manual_seed(0)
        vision = SamVisionConfig(
            hidden_size=width, output_channels=32, num_hidden_layers=1, num_attention_heads=2, image_size=side,
            patch_size=8, window_size=2, mlp_dim=32, global_attn_indexes=[0], num_pos_feats=16,
        )  # fmt: skip
        prompt = SamPromptEncoderConfig(
            hidden_size=32, image_size=side, patch_size=8, mask_input_channels=16, image_embedding_size=side // 8
        )
        decoder = SamMaskDecoderConfig(
            hidden_size=32, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
        )
        sam = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder))
        with torch.no_grad():  # transformers' start values are so small that no input would matter
            for parameter in sam.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, parameter[0].numel() ** -0.5)
        return sam.eval()

    return make
