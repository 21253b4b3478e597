"""`genseg ablation` on two small models and images of squares."""

import shutil

import torch

from bench.config import OrderConfig
from bench.experiments import ablation as module
from bench.records import DIFFERENCE, read_records
from bench.train.folders import model_of_stage
from bench.train.models import find_models
from methods.registry import method_class, resolve, stage_spec


def ablation(profile):
    return module.ablation(profile, find_models(profile))


def variants(records, method):
    return {record.variant for record in records if record.method == method}


def test_every_budget_box_and_length_is_asked(small):
    small.ablation.tolerances = [0.5]
    records = [record for record in ablation(small) if record.protocol != DIFFERENCE]
    lengths = {f"tokens={n}" for n in (1, 2, 4, 8, 16, 24, 32)}
    assert variants(records, "himtok") == lengths | {"settled=never", "settled=0.5"}
    assert variants(records, "argenseg") == {f"tokens={n}" for n in (1, 5, 14, 30)}
    # these models write no box, so that there is nothing to score; but they were asked
    folder = small.runs_dir / "predictions"
    asked = {path.relative_to(folder).as_posix() for path in folder.rglob("*.jsonl")}
    boxes = {"0/argenseg.val.per_expression", "0/himtok.val.per_expression", "16/himtok.val.per_expression-016",
             "32/himtok.val.per_expression-032"}  # fmt: skip
    assert {f"ablation/box-after-{box}.jsonl" for box in boxes} < asked
    spent = {r.variant: r.value for r in records if r.metric == "tokens_spent" and r.method == "himtok"}
    assert 1 <= spent["settled=0.5"] <= spent["settled=never"] == 32
    assert len(read_records(small.results_dir / "records" / "ablation.jsonl")) == len(records)


def test_a_changed_model_has_its_own_records_and_keeps_them(small, capsys):
    small.stages["off"] = small.stages["himtok"]
    small.ablation.variants = {"hierarchy=off": "off"}
    small.ablation.tolerances = []
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
    assert {r.variant for r in found if r.protocol == "codec"} == {
        f"hierarchy=off, tokens={n}" for n in (1, 2, 4, 8, 16, 24, 32)
    }
    before = path.read_bytes()
    shutil.rmtree(changed)
    ablation(small)
    assert path.read_bytes() == before
    assert "stage off was not trained here" in capsys.readouterr().out


def test_the_usual_codec_has_no_second_ceiling_and_claims_have_differences(small):
    small.stages["off"] = small.stages["himtok"]
    small.ablation.variants = {"hierarchy=off": "off", "hierarchy=paper": "himtok"}
    small.ablation.tolerances = []
    shutil.copytree(model_of_stage(small, "himtok"), model_of_stage(small, "off"))
    ablation(small)
    folder = small.results_dir / "records"
    assert not [r for r in read_records(folder / "ablation-off.jsonl") if r.protocol == "codec"]
    path = folder / "ablation.differences.jsonl"
    found = {r.variant: r for r in read_records(path)}
    same = found["hierarchy=paper against hierarchy=off"]
    assert (same.metric, same.value, same.low, same.high) == ("ciou", 0, 0, 0)
    assert same.n == 24  # both protocols were asked: the expressions count, not the 12 objects
    assert found["tokens=32 against tokens=16"].method == "himtok"
    before = path.read_bytes()
    small.ablation.variants = {}
    ablation(small)  # what can no longer be asked stays
    assert path.read_bytes() == before


def test_a_tokenizer_alone_has_its_ceiling(small):
    small.ablation.variants = {"encoder_layout=released": "tokens"}
    small.ablation.tolerances = []
    parts = small.stages["tokens"].model
    changed = {"mask_tokenizer_config": {**parts["mask_tokenizer_config"], "encoder_layout": "official"}}
    resolve(stage_spec("himtok", "tokenizer").trainee).build(changed, lambda: ()).save_pretrained(
        model_of_stage(small, "tokens")
    )
    ablation(small)
    found = read_records(small.results_dir / "records" / "ablation-tokens.jsonl")
    assert {r.protocol for r in found} == {"codec"}
    assert {r.variant for r in found} == {f"encoder_layout=released, tokens={n}" for n in (1, 2, 4, 8, 16, 24, 32)}


def test_single_tokens_give_the_answers_of_whole_scales(small):
    """Real models: the other form is started from the same weights and must write the same tokens."""
    small.ablation.tolerances, small.ablation.box_after = [], []
    small.ablation.limit, small.ablation.order_limit = 4, 3
    small.ablation.orders = {"order=token": OrderConfig("argenseg", {"variant": {"order": "token"}})}
    records = [r for r in ablation(small) if r.protocol == "orders"]
    assert {(r.method, r.variant, r.n, r.failures) for r in records} == {("argenseg", "order=token", 3, 0)}
    values = {r.metric: r.value for r in records}
    assert values["orders/same"] == 3
    assert values["orders/steps"] - values["orders/plain/steps"] == 30 - 4  # tokens instead of scales
    ratio = next(r for r in records if r.metric == "orders/ratio")
    assert 0 < ratio.low <= ratio.value <= ratio.high
    kept = read_records(small.results_dir / "records" / "ablation.jsonl")
    assert [r for r in kept if r.protocol == "orders"] == sorted(records, key=lambda r: r.metric)


def test_perception_is_asked_of_the_model_that_was_taught(small, monkeypatch):
    small.ablation.perception = "himtok"
    small.ablation.tolerances = []
    records = [r for r in ablation(small) if r.protocol == "perception"]
    values = {r.metric: r.value for r in records}
    assert set(values) == {f"perception/{name}" for name in ("accuracy", "likeliest", "chance", "failures")}
    assert 0 < values["perception/chance"] < 1
    assert {r.n for r in records} == {12}  # four images of three squares
