"""SAM's files against Meta's own code.

`sam.npz` holds what segment-anything 1.0 gave for a tiny SAM whose weights follow a rule, as it is ("plain") and
changed as HiMTok's release changes it ("released"); `sam.json` holds the shapes of its tensors.
"""

import json
import zlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from methods.base import UserError
from methods.himtok.refine import Refiner
from methods.internvl.sam import load_sam

LAYOUTS = ("plain", "released")


def weights(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """The tensors of a file by the rule."""
    found = {}
    for name, shape in shapes.items():
        values = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(
            shape, dtype=np.float32
        )
        if name.endswith("bias"):
            values *= 0.05
        elif len(shape) == 1:
            values = 1 + 0.1 * values
        else:
            values *= 0.3 if shape[0] == 1 else np.prod(shape[1:]) ** -0.5
        found[name] = torch.from_numpy(values)
    return found


@pytest.fixture(scope="module")
def tensors(goldens) -> dict[str, dict[str, Tensor]]:
    shapes = json.loads((goldens / "himtok/sam.json").read_text())
    return {layout: weights(shapes[layout]) for layout in LAYOUTS}


def inputs() -> tuple[Tensor, Tensor]:
    """Pixels of an image, and three soft masks of which the last is empty."""
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.standard_normal((1, 3, 64, 64), dtype=np.float32))
    soft = torch.from_numpy(rng.random((3, 32, 32), dtype=np.float32) ** 2)
    soft[1] *= 0.3
    soft[2] = 0
    return pixels, soft


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_masks_are_those_of_metas_code(tensors, goldens, tmp_path, layout):
    torch.save(
        {"model": {f"module.sam.{name}": tensor for name, tensor in tensors[layout].items()}}, tmp_path / "sam.pth"
    )
    refiner = Refiner.from_pretrained(tmp_path)
    found = refiner(*inputs())
    expected = torch.from_numpy(np.load(goldens / "himtok/sam.npz")[layout])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_file_or_safetensors_will_do(tensors, tmp_path):
    save_file(tensors["plain"], tmp_path / "weights.safetensors")
    assert load_sam(tmp_path / "weights.safetensors").stack is None
    save_file(tensors["released"], tmp_path / "sam.safetensors")
    assert load_sam(tmp_path).stack is not None  # the one that is called sam
    (tmp_path / "sam.safetensors").rename(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="2 files of weights and none is called sam"):
        load_sam(tmp_path)


BAD = {
    "missing": (lambda t: t.pop("mask_decoder.iou_token.weight"), "lacks mask_decoder.iou_token.weight"),
    "unexpected": (lambda t: t.update(more=torch.ones(1)), "more"),
    "misshapen": (lambda t: t.update({"image_encoder.neck.1.bias": torch.ones(3)}), r"layer_norm1.bias is \[3\]"),
    "no sam": (lambda t: t.clear() or t.update(a=torch.ones(1)), "it is not a SAM"),
    "no layer": (lambda t: [t.pop(n) for n in list(t) if ".blocks." in n], "blocks.0.norm1.weight; it is not a SAM"),
    "not finite": (lambda t: t["image_encoder.pos_embed"].fill_(torch.nan), "not finite"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_of_anything_else_is_named(tensors, tmp_path, name):
    change, sentence = BAD[name]
    changed = {key: tensor.clone() for key, tensor in tensors["plain"].items()}
    change(changed)
    torch.save(changed, tmp_path / "sam.pth")
    with pytest.raises(UserError, match=sentence):
        load_sam(tmp_path)
