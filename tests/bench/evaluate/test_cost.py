"""The estimate of an evaluation: of the right model, larger for larger batches, and a refusal with the numbers."""

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest

from bench.config import EvaluateConfig
from bench.evaluate.cost import batch_of, batch_that_fits, check_room, estimate, size_of_model
from methods.base import UserError
from methods.registry import method_class

SETTINGS = EvaluateConfig(batch=4, precision="bfloat16")


@pytest.fixture(scope="module")
def estimates():
    """method -> its estimate at size tiny."""
    return {name: estimate(name, "tiny", SETTINGS) for name in ("himtok", "argenseg")}


@pytest.mark.slow
def test_the_passes_of_the_language_model_are_those_of_the_method(estimates):
    assert (estimates["himtok"].usual.steps, estimates["argenseg"].usual.steps) == (34, 10)


@pytest.mark.slow
def test_weights_are_in_the_asked_precision_but_for_the_mask_tokenizer(estimates):
    full = estimate("himtok", "tiny", replace(SETTINGS, precision="float32"))
    model = method_class("himtok").build({"backbone": "random:tiny", "mask_tokenizer_config": {"width": 64, "heads": 1,
                                          "encoder_layers": 1, "decoder_layers": 1}}, lambda: ())  # fmt: skip
    backbone = sum(p.numel() for p in model.backbone.parameters())
    assert full.weights - estimates["himtok"].weights == 2 * backbone


@pytest.mark.slow
def test_more_at_once_takes_more_memory_and_less_time_each(estimates):
    many = estimate("himtok", "tiny", replace(SETTINGS, batch=16))
    one = estimates["himtok"]
    assert (many.batch, many.weights) == (16, one.weights)
    assert many.memory > one.memory
    assert many.usual.cache == pytest.approx(4 * one.usual.cache)
    assert many.seconds("A100") < one.seconds("A100")
    assert one.seconds("H200") < one.seconds("H100") < one.seconds("A100")


def test_there_is_none_without_a_size_or_a_declared_cost():
    assert estimate("himtok", "", SETTINGS) is None
    assert estimate("boxes", "tiny", SETTINGS) is None


def test_the_size_of_a_checkpoint_is_read_from_its_settings(build, tmp_path):
    build("himtok").save_pretrained(tmp_path / "ours")
    assert size_of_model(tmp_path / "ours", "8b") == "tiny"
    assert size_of_model(tmp_path, "8b") == "8b"
    official = {"llm_config": {"hidden_size": 4096, "num_hidden_layers": 32}, "vision_config": {"hidden_size": 1024}}
    (tmp_path / "config.json").write_text(json.dumps(official))
    assert size_of_model(tmp_path, "") == "8b"
    (tmp_path / "config.json").write_text('{"llm_config": 3}')
    assert size_of_model(tmp_path, "8b") == ""


@pytest.mark.slow
def test_a_gpu_that_is_too_small_is_refused_with_numbers(build, tmp_path, monkeypatch):
    build("himtok").save_pretrained(tmp_path / "model")
    assert check_room("himtok", tmp_path / "model", SETTINGS, 0) is None  # so small that nothing is estimated
    monkeypatch.setattr("bench.evaluate.cost.WORTH_A_LOOK", 0)
    found = check_room("himtok", tmp_path / "model", SETTINGS, 1e12)
    with pytest.raises(UserError, match=r"GB are needed .*smaller evaluate.batch.*nothing is moved to the CPU") as told:
        check_room("himtok", tmp_path / "model", SETTINGS, found.memory - 1)
    assert f"about {found.memory / 1e9:.1f} GB" in str(told.value)
    with pytest.raises(UserError, match="give evaluate.precision=bfloat16"):
        check_room("himtok", tmp_path / "model", replace(SETTINGS, precision="float32"), 0)


@pytest.mark.parametrize(("questions", "batch"), [(1, 16), (48, 16), (200, 25), (512, 64), (100_000, 64)])
def test_how_many_are_asked_at_once(questions, batch):
    assert batch_of(EvaluateConfig(), questions) == batch
    assert batch_of(EvaluateConfig(batch=3), questions) == 3


def test_a_large_model_is_asked_as_many_as_fit(build, tmp_path, monkeypatch):
    build("himtok").save_pretrained(tmp_path / "model")
    ask = partial(batch_that_fits, "himtok", tmp_path / "model", replace(SETTINGS, batch=0))
    assert ask(0) == 0  # a small one may be asked any number
    monkeypatch.setattr("bench.evaluate.cost.WORTH_A_LOOK", 0)
    monkeypatch.setattr(
        "bench.evaluate.cost.estimate", lambda name, size, settings: SimpleNamespace(memory=10 + 2 * settings.batch)
    )
    assert [ask(memory) for memory in (0, 11, 12, 14, 41, 42, 1e12)] == [1, 1, 1, 2, 8, 16, 64]
    monkeypatch.setattr("bench.evaluate.cost.estimate", lambda *given: None)
    assert ask(1e12) == 0
