"""A model whose weights stay in its files is the model that is loaded otherwise, and costs no memory of its own."""

from dataclasses import replace

import psutil
import pytest
import torch

from methods.internvl.backbone import Backbone
from methods.precision import left_in_files
from methods.registry import method_class
from tests.conftest import HIMTOK_SIZES


@pytest.fixture
def folder(build, tmp_path):
    build("himtok").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_it_is_the_same_model(folder):
    loaded = method_class("himtok").from_pretrained(folder)
    with left_in_files():
        mapped = method_class("himtok").from_pretrained(folder)
    own, other = (dict(model.named_buffers()) | dict(model.named_parameters()) for model in (loaded, mapped))
    assert own.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in own.items())
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in mapped.parameters()]


def test_types_are_the_files_but_for_the_mask_tokenizer(folder, tmp_path):
    method_class("himtok").from_pretrained(folder).save_pretrained(tmp_path / "half", "bfloat16")
    with left_in_files():
        mapped = method_class("himtok").from_pretrained(tmp_path / "half")
    assert {p.dtype for p in mapped.backbone.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in mapped.mask_tokenizer.parameters()} == {torch.float32}
    assert {b.dtype for b in mapped.backbone.buffers() if b.is_floating_point()} == {torch.float32}


def test_a_start_from_a_backbone_is_the_same(backbone_folder):
    parts = {"backbone": str(backbone_folder), "mask_tokenizer_config": HIMTOK_SIZES}
    loaded = method_class("himtok").build(parts, lambda: ())
    with left_in_files():
        mapped = method_class("himtok").build(parts, lambda: ()).state_dict()
    assert all(torch.equal(tensor, mapped[name]) for name, tensor in loaded.state_dict().items())


def test_writing_to_it_leaves_the_file(folder):
    before = (folder / "model.safetensors").read_bytes()
    with left_in_files():
        mapped = method_class("himtok").from_pretrained(folder)
    with torch.no_grad():
        mapped.backbone.native.lm_head.weight.zero_()
    assert (folder / "model.safetensors").read_bytes() == before


def own_bytes() -> int:
    """Memory of this process that is not a page of a file."""
    memory = psutil.Process().memory_info()
    return memory.rss - memory.shared


def test_it_costs_no_memory_of_its_own(tmp_path):
    """A backbone of 100 MB: less than a fifth of it is asked for."""
    wide = {"text_width": 768, "text_layers": 4, "text_mlp": 2048}
    model = method_class("boxes").build({"size": "tiny", "vocabulary": 320}, lambda: ("a",))
    old = model.backbone
    model.backbone = Backbone(replace(old.size, **wide), old.vocabulary, old.image_token_id)
    model.save_pretrained(tmp_path / "wide")
    size = (tmp_path / "wide" / "model.safetensors").stat().st_size
    del model
    before = own_bytes()
    with left_in_files():
        mapped = method_class("boxes").from_pretrained(tmp_path / "wide")
    assert own_bytes() - before < size / 5
    assert sum(p.numel() for p in mapped.parameters()) * 4 > size * 0.9
