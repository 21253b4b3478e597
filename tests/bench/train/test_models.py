"""Where a profile's weights are sought, and what is bundled with its results."""

import pytest
import torch
from safetensors.torch import load_file

from bench.train.folders import model_of_stage, stage_folder
from bench.train.models import bundle, bundled_model, find_model, find_models
from methods.base import UserError


def test_shipped_weights_come_first_and_only_if_wanted(small):
    trained = model_of_stage(small, "himtok")
    assert find_model(small, "himtok") == trained
    bundled = bundle(small)
    assert bundled == [small.results_dir / "checkpoints" / name for name in ("himtok", "argenseg")]
    assert find_model(small, "himtok") == trained
    small.bundled = True
    assert find_model(small, "himtok") == bundled[0]
    stored = load_file(bundled[0] / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()} == {torch.float16}
    bundle(small)
    (bundled[0] / "notes.txt").write_text("mine")
    bundled_model(small, "himtok").joinpath("model.safetensors").write_bytes(b"mine")
    with pytest.raises(UserError, match="was not written by genseg"):
        bundle(small)
    assert (bundled[0] / "model.safetensors").read_bytes() == b"mine"
    small.models["boxes"] = "backbone"
    with pytest.raises(UserError, match="no weights of boxes in .*train them with `genseg train backbone`"):
        find_model(small, "boxes")
    with pytest.raises(UserError, match="no weights of boxes"):
        find_models(small)


@pytest.mark.parametrize(("lines", "kept"), [(0, 0), (1, 1), (200, 200), (201, 101), (900, 180)])
def test_long_logs_ship_with_some_of_their_lines(small, lines, kept):
    log = stage_folder(small, "himtok") / "train.jsonl"
    log.write_text("".join(f"{number}\n" for number in range(lines)))
    bundle(small)
    bundled = (small.results_dir / "logs" / "himtok" / "train.jsonl").read_text().split()
    assert len(bundled) == kept
    assert bundled[:1] == ["0"][:kept]
