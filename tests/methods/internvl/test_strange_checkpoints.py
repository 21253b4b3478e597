"""Whatever a checkpoint's files hold, the answer is the model or one sentence, never a traceback.

The cases are generated: every field of config.json by every kind of wrong value, and every way in which a file of
weights can be incomplete, foreign or unusable.
"""

import argparse
import json
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from methods.base import UserError
from methods.internvl.checkpoint.io import read_file, read_tensors
from methods.internvl.checkpoint.native import convert as convert_backbone
from methods.internvl.checkpoint.ours import checked
from methods.registry import method_class, method_spec, resolve

NAMES = ("boxes", "himtok", "argenseg")
WRONG = (
    None,
    True,
    -1,
    0,
    3,
    2**31,
    10**30,
    1.5,
    math.nan,
    math.inf,
    "",
    "7",
    "\ud800",
    [],
    [0],
    [1, "x"],
    {},
    {"a": 1},
)


@pytest.fixture(scope="module")
def saved(build, tmp_path_factory) -> Callable[[str], pathlib.Path]:
    """saved(name) -> the folder of a small model, read only."""
    folders = {}
    for name in NAMES:
        folders[name] = tmp_path_factory.mktemp("saved") / name
        build(name, **({"mask_tokenizer_config": "short"} if name == "argenseg" else {})).save_pretrained(folders[name])
    return folders.__getitem__


def linked(source: pathlib.Path, target: pathlib.Path, *without: str) -> pathlib.Path:
    """A folder with the same files, some left out."""
    target.mkdir(exist_ok=True)
    for path in source.iterdir():
        if path.name not in without and not (target / path.name).exists():
            (target / path.name).symlink_to(path)
    return target


def sentence(folder: pathlib.Path, act: Callable[[], Any]) -> str:
    """What was said when something was refused; it is one sentence and names the place."""
    with pytest.raises(UserError) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and str(folder) in message, message
    return message


# ---- config.json ----------------------------------------------------------------------------------------------------


def places(config: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON object, objects themselves included."""
    for key, value in config.items() if isinstance(config, dict) else ():
        yield (*path, key)
        yield from places(value, (*path, key))


def edited(config: dict[str, Any], path: tuple[Any, ...], value: Any) -> str:
    """The JSON text of a config with one value replaced, or without it for `...`."""
    config = json.loads(json.dumps(config))
    inner = config
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return json.dumps(config)


def read_or_refuse(folder: pathlib.Path, load: Callable[[], Any]) -> str:
    """ "" or the refusal."""
    try:
        load()
    except UserError as error:
        message = str(error)
        assert "\n" not in message and message.endswith("."), message
        return message
    return ""


EVERY = [17, pytest.param(1, marks=pytest.mark.slow)]  # of the wrong values of a field every 17th, or all


def by_wrong_values(paths: list[tuple[Any, ...]], every: int) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """(path, value) of the edits to try; `...` leaves the field out."""
    values = (..., *WRONG)
    for number, path in enumerate(paths):
        yield from ((path, value) for value in values[number % every :: every])


@pytest.fixture
def one_tokenizer(saved, monkeypatch) -> None:
    """Read once, because here only config.json changes."""
    from methods.internvl.checkpoint import ours

    tokenizers: dict[str, Any] = {}
    load = ours.load_tokenizer

    def once(folder: pathlib.Path) -> Any:
        tokenizers[folder.name] = tokenizers.get(folder.name) or load(folder)
        return tokenizers[folder.name]

    monkeypatch.setattr(ours, "load_tokenizer", once)


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("name", NAMES)
def test_every_field_of_our_config_by_every_wrong_value(name, every, saved, one_tokenizer, tmp_path):
    folder = linked(saved(name), tmp_path / name, "config.json")
    config = json.loads((saved(name) / "config.json").read_text())
    kind, refused, tried = method_class(name), 0, 0
    for path, value in by_wrong_values(list(places(config)), every):
        (folder / "config.json").write_text(edited(config, path, value))
        refused += bool(read_or_refuse(folder, lambda: checked(kind, folder)))
        tried += 1
    assert refused > 0.7 * tried


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("layout", ["original", "native"])
def test_every_field_of_a_foreign_config_by_every_wrong_value(layout, every, saved, one_tokenizer, tmp_path):
    source = foreign(saved("boxes"), layout, tmp_path)
    config = json.loads((source / "config.json").read_text())
    folder = linked(source, tmp_path / "edited", "config.json")
    kind = method_class("boxes")
    named = [path for path in places(config) if path[-1] in READ]
    assert len(named) > 10
    for path, value in by_wrong_values(named, every):
        (folder / "config.json").write_text(edited(config, path, value))
        read_or_refuse(folder, lambda: checked(kind, folder))


READ = {
    "architectures", "model_type", "ps_version", "select_layer", "force_image_size", "max_dynamic_patch", "llm_config",
    "vision_config", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "rope_theta",
    "intermediate_size", "rms_norm_eps", "vocab_size", "tie_word_embeddings", "image_size", "patch_size",
    "qk_normalization", "initializer_factor", "layer_norm_eps", "text_config", "downsample_ratio", "rope_parameters",
    "vision_feature_layer", "layer_scale_init_value", "use_qk_norm",
}  # fmt: skip


def foreign(ours: pathlib.Path, layout: str, tmp_path: pathlib.Path) -> pathlib.Path:
    """A plain backbone of ours in OpenGVLab's or transformers' layout."""
    if layout == "native":
        return convert_backbone(ours, tmp_path / "native")
    from methods.internvl.checkpoint import io, opengvlab

    method = method_class("boxes").from_pretrained(ours)
    size, rows = method.backbone.size, method.backbone.vocabulary
    tensors = opengvlab.to_original(method.backbone.native.state_dict(), size)
    config = opengvlab.original_config(size, rows, "InternVLChatModel")
    return io.write_folder(tmp_path / "original", config, tensors, method.processor.tokenizer)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"[" * 10**5, b'{"a": ' * 10**5, b"\xff\xfe", b"\0" * 9]
)
@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_json_that_is_none(content, file, saved, tmp_path):
    folder = linked(saved("himtok"), tmp_path / "model", file)
    (folder / file).write_bytes(content)
    sentence(folder, lambda: method_class("himtok").from_pretrained(folder))


def test_a_huge_model_is_refused_before_memory_is_asked_for(saved, tmp_path):
    config = json.loads((saved("boxes") / "config.json").read_text())
    folder = linked(saved("boxes"), tmp_path / "model", "config.json")
    config["backbone"] |= {"text_width": 2**16, "text_heads": 2**9, "text_mlp": 2**18, "text_layers": 64}
    (folder / "config.json").write_text(json.dumps(config))
    assert "lacks" in sentence(folder, lambda: method_class("boxes").from_pretrained(folder))


# ---- weights --------------------------------------------------------------------------------------------------------


HEAD = "backbone.native.lm_head.weight"
UNFIT: list[tuple[str, Callable[[dict[str, torch.Tensor]], Any]]] = [  # a word of the refusal, an edit of the tensors
    ("lacks", lambda t: t.pop(HEAD)),
    ("unexpected", lambda t: t.update(extra=torch.zeros(1))),
    ("but must be", lambda t: t.update({HEAD: t[HEAD][:-1].clone()})),
    ("but must be", lambda t: t.update({HEAD: torch.zeros(())})),
    ("but must be", lambda t: t.update({HEAD: torch.zeros(0)})),
    ("not finite", lambda t: t[HEAD].flatten()[-1:].fill_(math.nan)),
    ("not finite", lambda t: t[HEAD].flatten()[:1].fill_(math.inf)),
    ("not float", lambda t: t.update({HEAD: t[HEAD].to(torch.int8)})),
    ("adapters", lambda t: t.update({"backbone.native.lm_head.lora_A.default.weight": torch.zeros(2, 2)})),
    ("adapters", lambda t: t.update({"base_model.model.x.base_layer.weight": torch.zeros(2, 2)})),
    ("twice", lambda t: t.update({f"_orig_mod.{HEAD}": t[HEAD].clone()})),
]


@pytest.mark.parametrize(("word", "edit"), UNFIT)
@pytest.mark.parametrize("name", NAMES)
def test_weights_that_do_not_fit_are_named(name, word, edit, saved, tmp_path):
    folder = linked(saved(name), tmp_path / "model", "model.safetensors")
    tensors = load_file(saved(name) / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")
    assert word in sentence(folder, lambda: method_class(name).from_pretrained(folder))


def cut_anywhere(data: bytes) -> list[bytes]:
    steps = [0, 1, 7, 8, 9, 64, 1000, len(data) // 2, len(data) - 1]
    flipped = [data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :] for place in (0, 3, 7, 8, 20, 200)]
    return [data[:n] for n in steps] + flipped + [data + b"more"]


@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_a_cut_or_changed_file_is_refused_in_a_sentence(form, tmp_path):
    tensors = {"a.weight": torch.arange(600.0), "b": torch.ones(3, dtype=torch.bfloat16)}
    path = tmp_path / "weights"
    save_file(tensors, path) if form == "safetensors" else torch.save(
        tensors, path, _use_new_zipfile_serialization=form == "zip"
    )
    for data in cut_anywhere(path.read_bytes()):
        path.write_bytes(data)
        read_or_refuse(path, lambda: read_file(path))
    path.write_bytes(b"")
    assert "damaged (it is empty)" in sentence(path, lambda: read_file(path))


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"PK\x03\x04" + b"\0" * 40, "damaged"),
        (b'{"a": 1}', "damaged"),
    ],
)
@pytest.mark.parametrize("ending", ["safetensors", "pth", "bin"])
def test_what_is_no_file_of_weights_is_called_what_it_is(content, word, ending, tmp_path):
    path = tmp_path / f"weights.{ending}"
    path.write_bytes(content)
    assert word in sentence(path, lambda: read_file(path))


SOUND: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "plain": lambda t: t,
    "under model": lambda t: {"model": t, "args": argparse.Namespace(lr=1e-4), "epoch": 3},
    "under state_dict": lambda t: {"state_dict": t},
    "under module": lambda t: {"module": t, "dp_world_size": 4},
    "twice wrapped": lambda t: {"state_dict": {"model": t}},
    "of data parallelism": lambda t: {f"module.{n}": x for n, x in t.items()},
    "compiled": lambda t: {f"_orig_mod.{n}": x for n, x in t.items()},
    "compiled in parallel": lambda t: {f"module._orig_mod.{n}": x for n, x in t.items()},
    "a compiled part": lambda t: {n.replace("a.", "a._orig_mod.", 1): x for n, x in t.items()},
    "of FSDP": lambda t: {n.replace("a.", "a._fsdp_wrapped_module.", 1): x for n, x in t.items()},
    "parameters": lambda t: {n: torch.nn.Parameter(x, requires_grad=x.is_floating_point()) for n, x in t.items()},
}


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("wrapped", SOUND)
def test_what_trainers_save_is_read(wrapped, form, tmp_path):
    tensors = {"a.weight": torch.arange(6.0).view(2, 3), "a.mask": torch.tensor([True, False]), "b": torch.ones(2)}
    path = tmp_path / "weights.pth"
    torch.save(SOUND[wrapped](tensors), path, _use_new_zipfile_serialization=form == "zip")
    found = read_file(path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


class Odd:
    """Any class of somebody's own code."""


UNREADABLE: dict[str, tuple[Any, str]] = {
    "an object beside": ({"model": {"a": torch.zeros(1)}, "trainer": Odd()}, "Odd"),
    "a whole module": (torch.nn.Linear(2, 2), "state_dict()"),
    "numbers beside": ({"a": torch.zeros(1), "epoch": 3}, "more than tensors"),
    "a list": ([torch.zeros(1)], "holds list"),
    "nothing": ({}, "holds dict"),
    "a tensor": (torch.zeros(2), "holds Tensor"),
    "numbered": ({0: torch.zeros(1)}, "more than tensors"),
    "sparse": ({"a": torch.eye(3).to_sparse()}, "not a plain tensor"),
}


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_sound_file_of_something_else_is_never_called_damaged(kind, form, tmp_path):
    path = tmp_path / "weights.pth"
    value, word = UNREADABLE[kind]
    torch.save(value, path, _use_new_zipfile_serialization=form == "zip")
    told = sentence(path, lambda: read_file(path))
    assert word in told and "damaged" not in told and "again" not in told.replace("save the model again", "")


def test_a_torchscript_program_and_a_numpy_archive_are_named(tmp_path):
    import numpy as np

    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "x.pt")
    assert "TorchScript" in sentence(tmp_path / "x.pt", lambda: read_file(tmp_path / "x.pt"))
    np.savez(tmp_path / "y.npz", a=np.zeros(2))
    assert "without a state dict" in sentence(tmp_path / "y.npz", lambda: read_file(tmp_path / "y.npz"))


# ---- folders --------------------------------------------------------------------------------------------------------


def test_shards_of_torch_save_are_read(saved, tmp_path):
    tensors = load_file(saved("himtok") / "model.safetensors")
    folder = linked(saved("himtok"), tmp_path / "model", "model.safetensors")
    torch.save(tensors, folder / "pytorch_model.bin")
    assert read_tensors(folder).keys() == tensors.keys()
    (folder / "pytorch_model.bin").unlink()
    names = sorted(tensors)
    placed = {n: f"pytorch_model-{1 + (i % 2):05d}-of-00002.bin" for i, n in enumerate(names)}
    for file in set(placed.values()):
        torch.save({n: tensors[n] for n in names if placed[n] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": placed}))
    loaded = method_class("himtok").from_pretrained(folder).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("index", "word"),
    [
        ({}, "names no files"), ({"weight_map": {}}, "names no files"), ({"weight_map": []}, "names no files"),
        ({"weight_map": {"a": 1}}, "names no files"), ({"weight_map": {"a": None}}, "names no files"),
        ({"weight_map": {"a": "model-00009.safetensors"}}, "is missing"),
        ({"weight_map": {"a": "../../etc/passwd"}}, "passwd is missing"), ({"weight_map": {"a": ""}}, "is missing"),
        ({"weight_map": {"a": "x" * 5000}}, "is missing"), ([], "holds a list"),
    ],
)  # fmt: skip
def test_a_strange_index_is_refused(index, word, saved, tmp_path):
    folder = linked(saved("boxes"), tmp_path / "model", "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert word in sentence(folder, lambda: method_class("boxes").from_pretrained(folder))


def test_an_adapter_alone_and_a_stale_twin_are_named(saved, tmp_path):
    folder = linked(saved("boxes"), tmp_path / "adapter", "model.safetensors")
    save_file({"x": torch.zeros(1)}, folder / "adapter_model.safetensors")
    assert "an adapter alone" in sentence(folder, lambda: method_class("boxes").from_pretrained(folder))
    folder = linked(saved("boxes"), tmp_path / "twin")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b.safetensors"}}')
    assert "remove the one" in sentence(folder, lambda: method_class("boxes").from_pretrained(folder))


@pytest.mark.parametrize("layout", ["original", "native"])
def test_a_head_that_is_the_embedding(layout, saved, tmp_path):
    """Left out of the file where the two are one; where both are there and differ, one of them is wrong."""
    folder = foreign(saved("boxes"), layout, tmp_path)
    config, tensors = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    embedding = next(name for name in tensors if "embed_tokens" in name)
    head = tensors.pop("language_model.lm_head.weight")
    config["llm_config" if layout == "original" else "text_config"]["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    native = method_class("boxes").from_pretrained(folder).backbone.native
    assert torch.equal(native.lm_head.weight, tensors[embedding])
    assert native.lm_head.weight is not native.model.language_model.embed_tokens.weight
    save_file(tensors | {"language_model.lm_head.weight": head}, folder / "model.safetensors")
    assert "tie_word_embeddings" in sentence(folder, lambda: method_class("boxes").from_pretrained(folder))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["himtok", "argenseg"])
def test_a_mask_tokenizers_file_of_any_shape(name, build, tmp_path):
    """Sizes are read off the shapes, so that shapes can lie."""
    tokenizer = build(name, backbone=None).mask_tokenizer.state_dict()
    convert = resolve(method_spec(name).convert)
    shapes = ((), (0,), (1,), (3, 5), (2, 2, 2), (1, 1, 1, 1), (7, 1, 3, 3))
    for number, victim in enumerate(sorted(tokenizer)[:: max(1, len(tokenizer) // 9)]):
        for shape in shapes[number % 7 :: 7]:
            path = tmp_path / "tokenizer.safetensors"
            save_file(tokenizer | {victim: torch.zeros(shape)}, path)
            assert read_or_refuse(path, lambda path=path: convert(path, tmp_path / "ours")), (victim, shape)


def test_a_full_disk_ends_in_a_sentence_and_leaves_no_half_file(saved, tmp_path, monkeypatch):
    from methods.internvl.checkpoint import io

    def full(tensors, path):
        pathlib.Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(io, "save_file", full)
    target = tmp_path / "native"
    assert "cannot be written" in sentence(target, lambda: convert_backbone(saved("boxes"), target))
    assert not list(target.glob("*.safetensors")) and not (target / "config.json").exists()
