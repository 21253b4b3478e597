"""`genseg doctor` and `genseg parity`."""

import json

import pytest

from bench.cli.doctor import examine
from bench.cli.parity import check
from methods.base import UserError


def test_the_doctor_names_versions_device_and_precision(capsys):
    examine()
    text = capsys.readouterr().out
    assert text.startswith("python 3.")
    for word in ("torch 2.", "transformers 5.", "deepspeed", "device: ", "processors", "training precision: "):
        assert word in text


@pytest.mark.slow
def test_every_set_below_a_folder_is_found_and_agrees(goldens, capsys):
    assert check(goldens)
    text = capsys.readouterr().out
    assert "DIFFERS" not in text
    for name in ("metrics", "internvl/qwen2_smallact"):
        assert f"goldens/{name}" in text.replace("\n", "")


def test_a_wrong_value_is_shown(goldens, tmp_path, capsys):
    content = json.loads((goldens / "metrics" / "metrics.json").read_text())
    content["pairs"][0]["intersection"] += 1
    (tmp_path / "any_name.json").write_text(json.dumps(content))
    assert not check(tmp_path)
    text = capsys.readouterr().out
    assert content["pairs"][0]["name"] in text
    assert "DIFFERS" in text


def test_a_linked_set_is_found(goldens, tmp_path, capsys):
    (tmp_path / "linked").symlink_to(goldens / "metrics")
    assert check(tmp_path)
    assert "in 1 sets" in capsys.readouterr().out


def test_a_folder_without_vectors_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=f"{folder.name}: no reference vectors of a known form"):
            check(folder)


@pytest.mark.parametrize("content", ["{", "{}", "[3]"])
def test_vectors_that_cannot_be_read_are_one_sentence(tmp_path, content):
    (tmp_path / "golden.json").write_text(content)  # HiMTok's form
    (tmp_path / "weight_overrides.safetensors").write_bytes(b"")  # ARGenSeg's
    (tmp_path / "meta.json").write_text(content)
    with pytest.raises(UserError, match=str(tmp_path)):
        check(tmp_path)
