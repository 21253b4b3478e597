"""Checkpoints of tiny models in the official layouts of HiMTok and ARGenSeg, with weights that were never trained.

So that they answer at all, their text is a chain: each token of `words` is followed by the next. Which of a place's
candidates a mask token is still depends on image and question.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from public_data import HEIGHT, WIDTH, things

from methods.internvl.checkpoint import io
from methods.registry import method_class, method_spec, resolve

TEXTS = ("Where is it? Reply with a box.", "Segment it.", "A: B. C. D.")
RIGHT = zip(things(1)[1].box, 2 * (WIDTH, HEIGHT), strict=True)  # of one object
BOX = "[[{},{},{},{}]]".format(*(round(1000 * value / side) for value, side in RIGHT))  # one entry of the vocabulary
STOP = "<|im_end|>"
SIZES = {
    "himtok": {
        "resolution": 64, "patch": 16, "width": 64, "heads": 1, "encoder_layers": 1, "decoder_layers": 1, "codes": 128,
        "ffn_out": 32, "pixel_base": 8, "pixel_multipliers": [1, 1, 1, 1, 1], "pixel_blocks": 1, "pixel_mid_blocks": 2,
        "encoder_layout": "official", "code_space": "official",
    },
    "argenseg": {"resolution": 64, "width": 32, "multipliers": [1, 1, 1], "blocks": 1, "codes": 128},
}  # fmt: skip
FOLDERS = {"himtok": "InternVL2_5-HiMTok-8B", "argenseg": "ARGenSeg-8B"}  # where the bundled profiles look for them
VQ_VAE = "vae_ch160v4096z32.pth"


def write_checkpoints(folder: Path) -> None:
    """Both checkpoints and VAR's VQ-VAE below a folder, in the places and forms in which they are published."""
    with tempfile.TemporaryDirectory() as made:
        backbone = _backbone(Path(made) / "backbone")
        for name, place in FOLDERS.items():
            model = _model(name, backbone)
            model.save_pretrained(Path(made) / name, "bfloat16")
            convert = resolve(method_spec(name).convert)
            convert(Path(made) / name, folder / place)
            _cut(folder / place)
            if name == "argenseg":
                convert(Path(made) / name, folder / VQ_VAE)


def write_parts(folder: Path) -> None:
    """HiMTok's mask tokenizer and the backbone by themselves, as himtok.pth and InternVL2_5-tiny."""
    with tempfile.TemporaryDirectory() as made:
        backbone = _backbone(Path(made) / "backbone")
        _model("himtok", backbone).save_pretrained(Path(made) / "himtok")
        resolve(method_spec("himtok").convert)(Path(made) / "himtok", folder / "himtok.pth")
        resolve(method_spec("boxes").convert)(backbone, folder / "InternVL2_5-tiny")


def _cut(folder: Path) -> None:
    """The weights of a folder as several files with an index, as those of 8B are."""
    tensors = {name: tensor.clone() for name, tensor in io.read_tensors(folder).items()}
    (folder / io.WEIGHTS_FILE).unlink()
    io.write_tensors(folder, tensors, "500KB")


def _backbone(folder: Path) -> Path:
    """InternVL2.5 of size "tiny", whose vocabulary holds the words that are answered."""
    tiny = {"backbone": "random:tiny", "vocabulary": 600, "texts": list(TEXTS * 20)}
    _random(method_class("boxes").build(tiny, lambda: TEXTS)).save_pretrained(folder)
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"<unused 599>"', f'"{BOX}"'))
    return folder


def _model(name: str, backbone: Path) -> Any:
    parts = {"backbone": str(backbone), "mask_tokenizer_config": SIZES[name]}
    model = _random(method_class(name).build(parts, lambda: TEXTS))
    processor = model.processor
    block: list[Sequence[Any]] = [[processor.start_id], [processor.end_id]]
    if name == "himtok":  # it writes its codes one by one, so they are in the chain: four to choose from at each place
        first = processor.mask_token_offset
        block[1:1] = [range(first + 4 * place, first + 4 * place + 4) for place in range(32)]
        _chain(model, [["\n"], ["A"], [":"], *block, [BOX], ["."], [STOP]])
    else:
        _chain(model, [["\n"], ["A"], [":"], block[0]], [block[1], [BOX], ["."], [STOP]])
    return model


def _random(model: Any) -> Any:
    """Weights of a size at which every input changes the output."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
    return model


def _chain(model: Any, *chains: Sequence[Sequence[Any]]) -> None:
    """Make one of the tokens of each place follow those of the place before. The last features of a hidden state carry
    nothing but the last token that was read, the others are what a model of this size has to choose by."""
    moves = [(chain[i], chain[i + 1]) for chain in chains for i in range(len(chain) - 1)]
    backbone = model.backbone
    kept = backbone.width - len(moves)
    tokenizer = model.processor.tokenizer

    def number(token: Any) -> int:
        return token if isinstance(token, int) else tokenizer.convert_tokens_to_ids({"\n": "Ċ"}.get(token, token))

    with torch.no_grad():
        for layer in backbone.language_model.layers:
            layer.self_attn.o_proj.weight[kept:] = 0
            layer.mlp.down_proj.weight[kept:] = 0
        backbone.projector.linear_2.weight[kept:] = 0
        backbone.projector.linear_2.bias[kept:] = 0
        table, head = backbone.language_model.embed_tokens.weight, backbone.native.lm_head.weight
        table[:, kept:] = 0
        head[:, kept:] = 0
        for parameter in (getattr(model, "word_embed", None), getattr(model, "lvl_embed", None)):
            if parameter is not None:
                (parameter.weight if parameter.weight.shape[0] == backbone.width else parameter.weight.T)[kept:] = 0
        if hasattr(model, "pos_1LC"):
            model.pos_1LC[..., kept:] = 0
            model.word_embed.bias[kept:] = 0
        for i, (sources, targets) in enumerate(moves):
            table[[number(token) for token in sources], kept + i] = 8
            head[[number(token) for token in targets], kept + i] = 100
