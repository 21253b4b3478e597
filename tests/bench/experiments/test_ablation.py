"""`genseg ablation` on two small models and images of squares."""

import shutil

import pytest
import torch

from bench.config import OrderConfig
from bench.experiments import ablation as module
from bench.records import DIFFERENCE, describe, read_records
from bench.train.folders import model_of_stage
from bench.train.models import find_models
from methods.registry import method_class, resolve, stage_spec


def ablation(profile):
    return module.ablation(profile, find_models(profile))


def variants(records, method):
    return {describe(record.variant, record.tokens) for record in records if record.method == method}


def side(against):
    """Fields of a difference's other side as `describe` takes them."""
    return {"settings": against.get("variant", {}), "tokens": against.get("tokens")}


@pytest.mark.slow
def test_every_budget_box_and_length_is_asked(small):
    small.ablation.thresholds = [0.5]
    records = [record for record in ablation(small) if record.kind != DIFFERENCE]
    lengths = {f"tokens={n}" for n in (1, 2, 4, 8, 16, 24, 32)}
    assert variants(records, "himtok") == lengths | {"early_exit=never", "early_exit=0.5"}
    assert variants(records, "argenseg") == {f"tokens={n}" for n in (1, 5, 14, 30)}
    # these models write no box, so that there is nothing to score; but they were asked
    folder = small.runs_dir / "predictions"
    asked = {path.relative_to(folder).as_posix() for path in folder.rglob("*.jsonl")}
    boxes = {"0/argenseg.val.per_expression", "0/himtok.val.per_expression", "16/himtok.val.per_expression-016",
             "32/himtok.val.per_expression-032"}  # fmt: skip
    assert {f"ablation/box_after={box}.jsonl" for box in boxes} < asked
    spent = {describe(r.variant): r.value for r in records if r.metric == "tokens_spent" and r.method == "himtok"}
    assert 1 <= spent["early_exit=0.5"] <= spent["early_exit=never"] == 32
    assert len(read_records(small.results_dir / "records" / "ablation.jsonl")) == len(records)


@pytest.mark.slow
def test_a_changed_model_has_its_own_records_and_keeps_them(small, capsys):
    small.stages["off"] = small.stages["himtok"]
    small.ablation.variants = {"off": {"hierarchy": "off"}}
    small.ablation.thresholds = []
    trained = model_of_stage(small, "himtok")
    changed = model_of_stage(small, "off")
    model = method_class("himtok").from_pretrained(trained)
    with torch.no_grad():
        model.mask_tokenizer.latent_tokens += 1
    model.save_pretrained(changed)
    ablation(small)
    path = small.results_dir / "records" / "ablation-off.jsonl"
    found = read_records(path)
    assert "hierarchy=off" in variants(found, "himtok")
    assert {r.tokens for r in found if r.kind == "reconstruction" and r.tokens} == {1, 2, 4, 8, 16, 24, 32}
    before = path.read_bytes()
    shutil.rmtree(changed)
    ablation(small)
    assert path.read_bytes() == before
    assert "stage off was not trained here" in capsys.readouterr().out


@pytest.mark.slow
def test_the_usual_mask_tokenizer_has_no_second_bound_and_claims_have_differences(small):
    small.stages["off"] = small.stages["himtok"]
    small.ablation.variants = {"off": {"hierarchy": "off"}, "himtok": {"hierarchy": "paper"}}
    small.ablation.thresholds = []
    shutil.copytree(model_of_stage(small, "himtok"), model_of_stage(small, "off"))
    ablation(small)
    folder = small.results_dir / "records"
    assert not [r for r in read_records(folder / "ablation-off.jsonl") if r.kind == "reconstruction"]
    path = folder / "ablation.differences.jsonl"
    found = {(describe(r.variant, r.tokens), describe(**side(r.against))): r for r in read_records(path)}
    same = found["hierarchy=paper", "hierarchy=off"]
    assert (same.metric, same.value, same.low, same.high) == ("ciou", 0, 0, 0)
    assert same.n == 24  # both protocols were asked: the expressions count, not the 12 objects
    assert found["tokens=32", "tokens=16"].method == "himtok"
    before = path.read_bytes()
    small.ablation.variants = {}
    ablation(small)  # what can no longer be asked stays
    assert path.read_bytes() == before


@pytest.mark.slow
def test_a_mask_tokenizer_alone_has_its_bound(small):
    small.ablation.variants = {"tokens": {"encoder_layout": "official"}}
    small.ablation.thresholds = []
    parts = small.stages["tokens"].model
    changed = {"mask_tokenizer_config": {**parts["mask_tokenizer_config"], "encoder_layout": "official"}}
    resolve(stage_spec("himtok", "tokenizer").trainee).build(changed, lambda: ()).save_pretrained(
        model_of_stage(small, "tokens")
    )
    ablation(small)
    found = read_records(small.results_dir / "records" / "ablation-tokens.jsonl")
    assert {r.kind for r in found} == {"reconstruction"}
    limits = {f"tokens={n}" for n in (1, 2, 4, 8, 16, 24, 32)} | {"bound=resize"}
    assert variants(found, "himtok") == {f"encoder_layout=official, {limit}" for limit in limits}


def test_single_tokens_give_the_answers_of_whole_scales(small):
    """Real models: the other form is started from the same weights and must write the same tokens."""
    small.ablation.thresholds, small.ablation.box_after = [], []
    small.ablation.limit, small.ablation.decoding_order_limit = 4, 3
    small.ablation.decoding_orders = {"token": OrderConfig("argenseg", {"variant": {"order": "token"}})}
    records = [r for r in ablation(small) if r.kind == "decoding_order"]
    assert {(r.label, r.n, r.failures) for r in records} == {("argenseg (order=token)", 3, 0)}
    values = {r.metric: r.value for r in records}
    assert values["same"] == 3
    assert values["steps"] - values["plain_steps"] == 30 - 4  # tokens instead of scales
    ratio = next(r for r in records if r.metric == "ratio")
    assert 0 < ratio.low <= ratio.value <= ratio.high
    kept = read_records(small.results_dir / "records" / "ablation.jsonl")
    assert [r for r in kept if r.kind == "decoding_order"] == sorted(records, key=lambda r: r.metric)


@pytest.mark.slow
def test_perception_is_asked_of_the_model_that_was_taught(small, monkeypatch):
    small.ablation.perception = "himtok"
    small.ablation.thresholds = []
    records = [r for r in ablation(small) if r.kind == "perception"]
    values = {r.metric: r.value for r in records}
    assert set(values) == {"accuracy", "likeliest", "chance", "failures"}
    assert 0 < values["chance"] < 1
    assert {r.n for r in records} == {12}  # four images of three squares
