"""A saved model is the model; a folder that is not one is refused with what is wrong and where."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from methods.base import Request, UserError
from methods.internvl.checkpoint import ours
from methods.internvl.checkpoint.ours import checked, weight_bytes
from methods.registry import method_class

NAMES = ("boxes", "himtok", "argenseg")


@pytest.fixture(params=NAMES)
def method(request, build):
    return build(request.param, **({"mask_tokenizer_config": "short"} if request.param == "argenseg" else {}))


@pytest.fixture
def folder(method, tmp_path):
    method.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def refusal(name: str, folder) -> str:
    with pytest.raises(UserError) as caught:
        method_class(name).from_pretrained(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def test_every_tensor_comes_back_bit_by_bit(method, folder):
    loaded = type(method).from_pretrained(folder)
    before, after = method.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert loaded.config() == method.config()
    assert loaded.processor.config == method.processor.config
    assert not loaded.training


def test_the_loaded_model_answers_alike(method, folder, examples):
    loaded = type(method).from_pretrained(folder)
    requests = [Request(example.image, example.expressions[:1]) for example in examples]
    for one, other in zip(method.segment(requests), loaded.segment(requests), strict=True):
        assert (one.text, one.token_ids, one.failure) == (other.text, other.token_ids, other.failure)


def test_saving_again_gives_the_same_bytes(method, folder, tmp_path):
    type(method).from_pretrained(folder).save_pretrained(tmp_path / "again")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_half_precision_rounds_once(method, tmp_path):
    method.save_pretrained(tmp_path, "float16")
    stored = load_file(tmp_path / "model.safetensors")
    assert {t.dtype for t in stored.values() if t.is_floating_point()} == {torch.float16}
    loaded = type(method).from_pretrained(tmp_path).state_dict()
    for name, tensor in method.state_dict().items():
        assert loaded[name].dtype == tensor.dtype
        expected = tensor.half().float() if tensor.is_floating_point() else tensor
        assert torch.equal(loaded[name], expected), name


@pytest.fixture
def shards(method, tmp_path):
    """The method saved in several files."""
    method.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    return tmp_path / "shards"


def test_shards_hold_the_same_tensors_and_keep_to_their_size(method, folder, shards):
    files = sorted(shards.glob("*.safetensors"))
    assert len(files) > 1
    assert not (shards / "model.safetensors").exists()
    contents = [load_file(path) for path in files]
    assert all(len(held) == 1 or sum(t.nbytes for t in held.values()) <= 100_000 for held in contents)
    merged = {name: tensor for held in contents for name, tensor in held.items()}
    whole = load_file(folder / "model.safetensors")
    assert merged.keys() == whole.keys()
    assert all(torch.equal(merged[name], whole[name]) for name in whole)
    loaded = type(method).from_pretrained(shards).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in method.state_dict().items())


@pytest.mark.parametrize("name", ["notes.txt", "model-old.safetensors", "model.safetensors"])
def test_a_folder_that_holds_anything_stays_as_it_is(method, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match="holds files already"):
        method.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_missing_and_a_damaged_shard_are_named(method, shards):
    last = sorted(shards.glob("*.safetensors"))[-1]
    data = last.read_bytes()
    last.write_bytes(data[: len(data) // 2])
    assert "damaged (" in refusal(method.name, shards)
    last.unlink()
    assert f"{last.name} is missing" in refusal(method.name, shards)


def test_an_index_that_promises_more_than_its_shards_is_refused(method, shards):
    path = shards / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["surplus"] = next(iter(index["weight_map"].values()))
    path.write_text(json.dumps(index))
    assert "surplus is in model.safetensors.index.json but in no file" in refusal(method.name, shards)
    path.write_text("[]")
    assert "holds a list, not an object" in refusal(method.name, shards)


def test_parts_that_only_train_are_not_saved(build, tmp_path):
    method = build("boxes")
    method.enter_stage("pretrain")
    assert any(name.startswith("heads.") for name in method.state_dict())
    method.save_pretrained(tmp_path)
    assert not any(name.startswith("heads.") for name in load_file(tmp_path / "model.safetensors"))
    method_class("boxes").from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["himtok", "argenseg"])
def test_a_mask_tokenizer_alone_needs_no_tokenizer(build, tmp_path, name):
    method = build(name, backbone=None, **({"mask_tokenizer_config": "short"} if name == "argenseg" else {}))
    method.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    loaded = type(method).from_pretrained(tmp_path)
    masks = torch.rand(2, 1, method.mask_tokenizer.resolution, method.mask_tokenizer.resolution)
    assert torch.equal(loaded.mask_tokenizer.encode(masks), method.mask_tokenizer.encode(masks))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t, name: t.pop(name), "lacks {}"),
        (lambda t, name: t.update({"surplus.weight": torch.zeros(2)}), "has unexpected surplus.weight"),
        (lambda t, name: t.update({name: torch.zeros(3, 3)}), "{} is [3, 3], but must be ["),
    ],
)
def test_tensors_that_do_not_fit_are_named(method, folder, change, complaint):
    tensors = load_file(folder / "model.safetensors")
    name = "backbone.native.lm_head.weight"
    change(tensors, name)
    save_file(tensors, folder / "model.safetensors")
    assert complaint.format(name) in refusal(method.name, folder)


def test_another_version_of_the_layout_is_refused(method, folder):
    config = json.loads((folder / "config.json").read_text())
    for version, words in ((1, "written by an earlier version (format 1)"), (99, "written by a later version")):
        (folder / "config.json").write_text(json.dumps(config | {"format": version}))
        assert words in refusal(method.name, folder)


def test_many_missing_tensors_are_counted(method, folder):
    save_file({"surplus": torch.zeros(1)}, folder / "model.safetensors")
    assert f"and {len(method.state_dict()) - 3} more" in refusal(method.name, folder)


def test_another_methods_model_is_refused(method, folder):
    for other in set(NAMES) - {method.name}:
        assert f"holds a {method.name!r} model, not {other!r}" in refusal(other, folder)


def test_a_model_of_another_kind_is_told(method, folder):
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    assert "names no method and no InternVL" in refusal(method.name, folder)
    (folder / "config.json").write_text('{"architectures": ["InternVLChatModel"], "model_type": "internvl_chat"}')
    assert "not InternVL2.5's" in refusal(method.name, folder) or "holds no" in refusal(method.name, folder)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(method, folder, missing):
    (folder / missing).unlink()
    assert f"{missing} is missing" in refusal(method.name, folder)


def test_a_missing_folder_and_a_file_are_named(tmp_path):
    assert "config.json is missing" in refusal("himtok", tmp_path / "none")
    (tmp_path / "file").touch()
    refusal("himtok", tmp_path / "file")


@pytest.mark.parametrize("share", [0, 0.3, 0.999])
def test_truncated_weights_are_refused(method, folder, share):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "damaged (" in refusal(method.name, folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'"text"'])
def test_a_damaged_config_is_refused(method, folder, content):
    (folder / "config.json").write_bytes(content)
    refusal(method.name, folder)


@pytest.mark.parametrize("key", ["backbone", "processor", "vocabulary"])
def test_a_config_that_lacks_a_part_is_refused(method, folder, key):
    config = json.loads((folder / "config.json").read_text())
    del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    assert key in refusal(method.name, folder)


def test_a_config_with_an_unknown_value_is_refused(method, folder):
    config = json.loads((folder / "config.json").read_text())
    config["backbone"]["flavour"] = "sour"
    (folder / "config.json").write_text(json.dumps(config))
    assert "flavour" in refusal(method.name, folder)


def test_weights_in_bfloat16_are_the_rounded_ones_but_for_the_mask_tokenizers(method, folder, examples):
    loaded = type(method).from_pretrained(folder, dtype="bfloat16")
    assert torch.get_default_dtype() == torch.float32
    wanted = method.state_dict()
    for name, tensor in loaded.state_dict().items():
        precise = name.startswith("mask_tokenizer.") or not tensor.is_floating_point()
        rounded = wanted[name] if precise else wanted[name].bfloat16()
        assert tensor.dtype == rounded.dtype, name
        assert torch.equal(tensor, rounded), name
    answer = loaded.segment([Request(examples[0].image, ("the red square",))])[0]
    assert answer.mask.shape == examples[0].mask.shape


def test_a_model_that_a_gpu_cannot_hold_is_refused_with_numbers(method, folder, monkeypatch):
    """Before any of it is made."""
    config, tensors = checked(type(method), folder)
    whole, half = (weight_bytes(tensors, dtype) for dtype in (torch.float32, torch.bfloat16))
    loaded = type(method).from_pretrained(folder)
    assert whole == sum(t.numel() * t.element_size() for t in loaded.state_dict().values() if t.is_floating_point())
    assert half < whole
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (half - 1, 2 * whole))
    monkeypatch.setattr(type(method), "from_config", classmethod(lambda *_: pytest.fail("was built")))
    monkeypatch.setattr(ours, "checked", lambda *_: (config, tensors))
    for dtype, words in (("float32", "in float32; bfloat16 takes half"), ("bfloat16", "GiB of the GPU's memory")):
        with pytest.raises(UserError, match=words):
            type(method).from_pretrained(folder, dtype=dtype, device="cuda")
