"""Checkpoints appear whole or not at all, and the newest good one is found."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.distributed import SINGLE_PROCESS
from bench.train import checkpoints as files
from bench.train.checkpoints import Draft, Shard, checkpoints, clean_up, load_checkpoint, share
from methods.base import UserError


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"a": torch.full((3,), value), "n": torch.tensor(7), "half": torch.ones(2, dtype=torch.bfloat16)}


def save_checkpoint(folder: Path, step: int, saved: dict[str, torch.Tensor], state: dict) -> None:
    Draft(folder, step, Shard(saved), state, SINGLE_PROCESS).finish()


def save_shared(folder: Path, step: int, saved: dict[str, torch.Tensor], count: int) -> None:
    """As `count` processes do."""
    shapes = {name: list(tensor.shape) for name, tensor in saved.items()}
    cut = [{name: share(tensor, i, count).clone() for name, tensor in saved.items()} for i in range(count)]
    cut = [{name: tensor for name, tensor in some.items() if tensor.numel() or not i} for i, some in enumerate(cut)]
    shards = [Shard(some, i, count, shapes) for i, some in enumerate(cut)]
    drafts = [Draft(folder, step, shards[0], {}, SINGLE_PROCESS)]
    drafts[0].join()
    for each in shards[1:]:
        files.save_file(each.tensors, drafts[0].draft / each.file)
    drafts[0].finish()


def test_what_is_saved_comes_back(tmp_path):
    save_checkpoint(tmp_path, 12, tensors(1.5), {"lines": {"a": 3}})
    found, state = load_checkpoint(tmp_path)
    assert found.keys() == tensors(0).keys()
    assert all(torch.equal(found[name], value) for name, value in tensors(1.5).items())
    assert state == {"lines": {"a": 3}, "step": 12}


def test_the_generator_in_an_older_checkpoint_is_left_out(tmp_path):
    save_checkpoint(tmp_path, 12, tensors(1.5) | {"torch/rng": torch.get_rng_state()}, {})
    assert load_checkpoint(tmp_path)[0].keys() == tensors(0).keys()


def test_a_new_checkpoint_replaces_the_old_one(tmp_path):
    for step in (5, 20, 100):
        save_checkpoint(tmp_path, step, tensors(step), {})
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-00000100"]
    assert load_checkpoint(tmp_path)[1]["step"] == 100


def test_saving_the_same_step_again_is_possible(tmp_path):
    save_checkpoint(tmp_path, 5, tensors(1), {})
    save_checkpoint(tmp_path, 5, tensors(2), {})
    assert load_checkpoint(tmp_path)[0]["a"][0] == 2


def test_an_empty_or_missing_folder_has_none(tmp_path):
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "none") is None


@pytest.fixture
def two(tmp_path, monkeypatch):
    """A good checkpoint of step 10 and a newer one of step 20, as after a kill before the old one was dropped."""
    save_checkpoint(tmp_path, 10, tensors(10), {})
    with monkeypatch.context() as patch:
        patch.setattr(files, "clean_up", lambda *args: None)
        save_checkpoint(tmp_path, 20, tensors(20), {})
    assert len(checkpoints(tmp_path)) == 2
    return tmp_path


def test_of_two_the_newer_counts(two):
    assert load_checkpoint(two)[1]["step"] == 20


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_truncated_tensors_are_passed_over(two, size):
    path = two / "checkpoint-00000020" / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    found, state = load_checkpoint(two)
    assert (state["step"], float(found["a"][0])) == (10, 10)


@pytest.mark.parametrize("content", ["", "{", '{"step": 2', "\0" * 40])
def test_a_broken_state_is_passed_over(two, content):
    (two / "checkpoint-00000020" / "state.json").write_text(content)
    assert load_checkpoint(two)[1]["step"] == 10


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors"])
def test_a_missing_file_is_passed_over(two, name):
    (two / "checkpoint-00000020" / name).unlink()
    assert load_checkpoint(two)[1]["step"] == 10


def test_an_unfinished_draft_is_no_checkpoint(two):
    (two / "checkpoint-00000020").rename(two / ".checkpoint-00000020.part")
    assert load_checkpoint(two)[1]["step"] == 10
    save_checkpoint(two, 20, tensors(20), {})  # over the draft
    assert [path.name for path in two.iterdir()] == ["checkpoint-00000020"]


def test_when_every_checkpoint_is_broken_there_is_none(two):
    for path in two.glob("*/tensors.safetensors"):
        path.write_bytes(b"")
    state = torch.get_rng_state()
    assert load_checkpoint(two) is None
    assert torch.equal(torch.get_rng_state(), state)


def test_a_crash_while_writing_leaves_the_old_one(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 10, tensors(10), {})

    def crash(*args):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(files, "save_file", crash)
        with pytest.raises(UserError, match="checkpoint-00000020: cannot be written .disk full."):
            save_checkpoint(tmp_path, 20, tensors(20), {})
    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", crash)
        with pytest.raises(UserError, match="disk full"):
            save_checkpoint(tmp_path, 20, tensors(20), {})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000010"]
    assert load_checkpoint(tmp_path)[1]["step"] == 10


@pytest.mark.parametrize("left", ["tensors.safetensors", "state.json"])
def test_what_a_kill_during_clean_up_left_goes_at_the_next_look(two, left):
    half = two / "checkpoint-00000010"
    (half / ({"state.json", "tensors.safetensors"} - {left}).pop()).unlink()
    (two / ".checkpoint-00000005.old").mkdir()
    (two / "checkpoint-mine").mkdir()
    (two / "model").mkdir()
    clean_up(two, two / "checkpoint-00000020")
    assert sorted(path.name for path in two.iterdir()) == ["checkpoint-00000020", "checkpoint-mine", "model"]
    clean_up(two)
    assert load_checkpoint(two) is None
    clean_up(two / "none")


@given(st.lists(st.integers(0, 4), max_size=3), st.integers(1, 9))
def test_shares_are_the_whole(shape, count):
    whole = torch.arange(float(math.prod(shape))).reshape(shape)
    parts = [share(whole, index, count) for index in range(count)]
    assert torch.equal(torch.cat(parts).reshape(shape), whole)
    assert max(map(len, parts)) == -(-whole.numel() // count)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_what_several_processes_saved_comes_back(tmp_path, count):
    saved = {"a": torch.randn(5, 3), "none": torch.zeros(0), "n": torch.tensor(7), "half": torch.randn(4).bfloat16()}
    save_shared(tmp_path, 12, saved, count)
    found, state = load_checkpoint(tmp_path)
    assert list(found) == list(saved) and state == {"step": 12} and found.get("other") is None
    assert all(torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in saved.items())


@pytest.mark.parametrize("shapes", [{"a": [9]}, {"a": [-3, -1], "n": [], "half": [2]}, {"a": 3}, [], "x", {"b": [3]}])
def test_shares_that_do_not_fit_are_passed_over(two, shapes):
    save_shared(two, 30, tensors(30), 2)
    state = two / "checkpoint-00000030" / "state.json"
    assert load_checkpoint(two)[1]["step"] == 30
    save_checkpoint(two, 20, tensors(20), {})
    save_shared(two, 30, tensors(30), 2)
    state.write_text(json.dumps({"step": 30, "shapes": shapes}))
    assert load_checkpoint(two) is None


def test_a_missing_share_is_passed_over(tmp_path):
    save_shared(tmp_path, 30, tensors(30), 3)
    (tmp_path / "checkpoint-00000030" / "tensors-00002-of-00003.safetensors").unlink()
    assert load_checkpoint(tmp_path) is None
