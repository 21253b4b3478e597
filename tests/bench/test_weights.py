"""What of a checkpoint is there is told by names, sizes and headers, before anything is loaded."""

import json

import pytest
import torch
from safetensors.torch import save_file

from bench.weights import check_folder, content_of, fault_of
from methods.base import UserError


@pytest.fixture
def checkpoint(tmp_path):
    """Two files of weights with an index, config.json and a tokenizer."""
    tensors = {"a": torch.zeros(2, 3), "b": torch.zeros(5)}
    placed = {}
    for i, (name, tensor) in enumerate(tensors.items(), 1):
        file = f"model-0000{i}-of-00002.safetensors"
        save_file({name: tensor}, tmp_path / file)
        placed[name] = file
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path


def test_a_whole_checkpoint_is_counted(checkpoint):
    content = content_of(checkpoint)
    assert (content.parameters, content.faults) == (11, ())
    check_folder(checkpoint)
    assert content.files == {path.name: path.stat().st_size for path in checkpoint.glob("*.safetensors")}
    one = checkpoint / "alone"
    one.mkdir()
    save_file({"a": torch.zeros(7)}, one / "model.safetensors")
    assert content_of(one).parameters == 7


def test_every_gap_is_named(checkpoint, tmp_path):
    last = sorted(checkpoint.glob("*.safetensors"))[-1]
    last.unlink()
    (checkpoint / "config.json").unlink()
    (checkpoint / "tokenizer.json").unlink()
    content = content_of(checkpoint)
    assert [fault.split(" ")[0] for fault in content.faults] == ["config.json", "the", "1"]
    assert content.faults[-1].startswith(f"1 of 2 files of weights missing, such as {last.name}; ")
    with pytest.raises(UserError, match="1 of 2 files of weights missing"):
        check_folder(checkpoint)
    assert content.parameters == 6
    assert content_of(tmp_path / "nowhere").faults == ("no such folder",)
    (tmp_path / "empty").mkdir()
    assert (
        content_of(tmp_path / "empty")
        .faults[-1]
        .startswith("1 of 1 files of weights missing, such as model.safetensors; ")
    )


def test_a_tokenizer_needs_what_reads_it(checkpoint, monkeypatch):
    (checkpoint / "tokenizer.json").rename(checkpoint / "tokenizer.model")
    monkeypatch.setattr("bench.weights.READER", "no_such_module")
    (fault,) = content_of(checkpoint).faults
    assert "pip install -e '.[internlm2]'" in fault
    monkeypatch.setattr("bench.weights.READER", "json")
    assert content_of(checkpoint).faults == ()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "pointer of Git LFS"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"", "is empty"),
        (b"\xff" * 64, "no file of tensors"),
        ((20).to_bytes(8, "little") + b'{"a": "no tensors"} ', "is damaged"),
        ((2).to_bytes(8, "little") + b"{}", "is damaged"),
    ],
)
def test_what_is_no_file_of_weights_is_told(tmp_path, content, fault):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert fault in fault_of(path)


def test_half_a_download_is_told_with_its_bytes(checkpoint):
    path = sorted(checkpoint.glob("*.safetensors"))[0]
    data = path.read_bytes()
    path.write_bytes(data[:-4])
    assert f"has {len(data) - 4:,} of {len(data):,} bytes" in fault_of(path)
    assert f"{path.name} has" in content_of(checkpoint).faults[0]


def test_torchs_own_form_is_left_to_the_loader(tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "vae.pth")
    assert fault_of(tmp_path / "vae.pth") is None
    assert fault_of(tmp_path / "nothing.pth") == "no such file"


def test_a_damaged_index_is_refused(checkpoint):
    (checkpoint / "model.safetensors.index.json").write_text('{"weight_map": []}')
    with pytest.raises(UserError, match="names no files of weights"):
        content_of(checkpoint)
