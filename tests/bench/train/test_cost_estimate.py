"""What `genseg plan` says is what a real model has and does; the recipes are whole and say what they lack."""

import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from bench.cli import main
from bench.config import StageConfig, TrainConfig, load_profile
from bench.train.cost_estimate import (
    PEAKS,
    Machine,
    StagePlan,
    _config,
    fitting,
    machine_of,
    memory_rows,
    plan_stage,
)
from bench.train.freezing import enter
from bench.train.throughput import FlopMeter
from methods.base import UserError
from methods.common.cost import Load
from methods.registry import method_class, method_spec, resolve

RECIPES = {"himtok": ["tokenizer", "align", "tune", "finetune"], "argenseg": ["joint", "finetune"]}
CODECS = {
    "himtok": {
        "resolution": 64, "patch": 16, "width": 64, "encoder_layers": 1, "decoder_layers": 1, "heads": 4, "codes": 64,
        "ffn_out": 32, "pixel_base": 8, "pixel_multipliers": [1, 1, 1, 1, 1], "pixel_blocks": 1,
    },
    "argenseg": {
        "resolution": 32, "width": 32, "multipliers": [1, 1, 1, 1], "blocks": 1, "codes": 64, "scales": [1, 2, 3, 4]
    },
}  # fmt: skip
ENTERED = [("himtok", "align"), ("himtok", "tune"), ("argenseg", "joint")]

ENTERED_STAGE = dict(ENTERED)


def build(name: str, stage: str):
    parts = {"backbone": "random:nano", "vocabulary": 300, "mask_tokenizer_config": CODECS[name]}
    method = method_class(name).build(parts, lambda: ())
    enter(method, StageConfig(method=name, stage=stage), TrainConfig())
    return method


def load_of(name: str, batch, samples: int):
    """The planned load of a real batch in which every sample has a mask."""
    processor = build(name, ENTERED_STAGE[name]).processor
    block, image = len(processor.mask_block), processor.size.tokens_per_tile
    supervised = int((batch["labels"][:, 1:] != -100).sum())
    text, answer = batch["ids"].shape[1] - block - image, supervised / samples - block
    return Load(len(batch["pixels"]), samples, text, answer, len(batch["masks"]), tiles=1)


@pytest.mark.parametrize(("name", "stage"), ENTERED)
def test_flops_and_activations_are_those_of_a_real_step(name, stage, examples):
    method = build(name, stage)
    samples = [method.processor.prepare(example, "segment", np.random.default_rng(0)) for example in examples[:3]]
    batch = method.processor.collate(samples)
    tokens, kept = batch["ids"].numel(), {}
    own = {p.untyped_storage().data_ptr() for p in method.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    meter = FlopMeter(1.0)
    with meter.counting(method, tokens):
        method.loss(batch)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        method.loss(batch)
    measured = sum(storage.nbytes() for pointer, storage in kept.items() if pointer not in own)
    load = load_of(name, batch, len(samples))
    with FakeTensorMode():
        cost = resolve(method_spec(name).estimate)(build(name, stage), load, torch.float32)
    assert cost.flops == pytest.approx(meter.per_token * tokens, rel=0.01)
    assert cost.kept + cost.logits == pytest.approx(measured, rel=0.2)
    assert cost.checkpointed < cost.kept


@pytest.mark.parametrize(("name", "stage"), ENTERED)
def test_parameters_are_those_of_a_real_model(name, stage, tmp_path):
    parts = f"{{vocabulary: 300, mask_tokenizer_config: {CODECS[name]}}}".replace("'", "")
    path = tmp_path / "own.yaml"
    path.write_text(
        f"name: own\nsize: nano\ndata: {{root: x}}\nstages:\n  a:\n    method: {name}\n    stage: {stage}\n"
        f"    model: {parts}\n    tasks: {{segment: 1}}\n    steps: 10\n    images_per_step: 8\n"
        f"    freeze: ['*lm_head*']\n"
    )
    plan = plan_stage(load_profile(path), "a", Machine(gpus=2))
    method = build(name, stage)
    assert plan.parameters == sum(p.numel() for p in method.parameters())
    head = method.backbone.native.lm_head.weight.numel()
    assert plan.trained == sum(p.numel() for p in method.parameters() if p.requires_grad) - head
    assert (plan.steps, plan.samples, sorted(plan.memory)) == (10, 16, [0, 1, 2, 3])
    assert plan.tokens == 10 * 16 * (64 + 100 + len(method.processor.mask_block))
    assert plan.hours("A100", 0.4) > plan.hours("H100", 0.4) > 0


@pytest.mark.parametrize("name", [pytest.param("nano", marks=pytest.mark.slow), "smoke"])
def test_every_stage_of_the_small_profiles_has_a_plan(name):
    profile = load_profile(name)
    seen = set()
    for stage in profile.stages:
        parts = repr(sorted(_config(profile, profile.stages[stage]).items()))
        if parts not in seen:
            assert plan_stage(profile, stage, Machine()).parameters > 10**5
        seen.add(parts)


COUNTS = {"all": 10**9, "trained": 5 * 10**8, "whole": 10**8, "exact": 5 * 10**7, "largest": 2 * 10**8}


def test_memory_by_stage():
    """One billion parameters, half of them trained, a tenth frozen and kept whole, on four GPUs."""
    cost = {"copies": 1e9, "logits": 2e9, "kept": 7e9, "checkpointed": 3e9}
    rows = [memory_rows(zero, COUNTS, cost, 4, False) for zero in range(4)]
    assert [row["weights"] for row in rows] == pytest.approx([4, 4, 4, 0.4 + 0.9])
    assert [row["gradients"] for row in rows] == pytest.approx([2, 2, 0.5, 0.5])
    assert [row["optimiser"] for row in rows] == pytest.approx([4, 1.5, 1.5, 1.5])
    assert rows[0]["training"] == pytest.approx(4 + 2 + 4 + 1 + 2 + 7)
    assert rows[0]["training, checkpointed"] == pytest.approx(rows[0]["training"] - 4)
    assert [row["validating"] for row in rows] == pytest.approx([8, 5.5, 5.5, 1.3 + 5.5])
    assert [row["CPU: checkpoint"] for row in rows] == pytest.approx([8, 2, 2, 2])


def test_memory_with_weights_in_bfloat16():
    cost = {"copies": 1e9, "logits": 0, "kept": 0, "checkpointed": 0}
    rows = [memory_rows(zero, COUNTS, cost, 4, True) for zero in range(4)]
    assert [row["weights"] for row in rows] == pytest.approx([4, 2.1, 2.1, 0.2 + 0.1 + 0.45])
    assert [row["gradients"] for row in rows] == pytest.approx([2, 1, 0.5, 0.5])
    assert [row["bf16 copies"] for row in rows] == [1, 0, 0, 0]
    assert rows[3]["loading"] == pytest.approx(0.75 + max(0.4, 0.5))
    assert rows[2]["saving"] == pytest.approx(2.1 + 0.5 + 1.5 + 2 * 1.0 + 0.8)


@pytest.mark.parametrize(("words", "complaint"), [({"gpus": "many"}, "whole number"), ({"mfu": "0"}, "mfu is '0'")])
def test_settings_that_are_no_numbers_are_named(words, complaint):
    with pytest.raises(UserError, match=complaint):
        machine_of(words)


@pytest.mark.parametrize("size", ["1B", "2B", "4B", "8B"])
@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_valid_at_every_size(name, size):
    profile = load_profile(name, [f"size={size}", "weights=/w"])
    assert list(profile.stages) == RECIPES[name]
    assert profile.runs == f"runs/{name}-{size}"
    folders = [s.model["backbone"] for s in profile.stages.values() if "backbone" in s.model]
    assert folders == [f"/w/InternVL2_5-{size}"]
    for stage in profile.stages.values():
        assert stage.stage in method_spec(stage.method).stages
        if stage.stage != "tokenizer":
            assert stage.images_per_step % (8 * stage.micro_batch_images) == 0
            assert stage.warmup == round(0.03 * stage.steps)


def test_the_tokenizer_s_recipe_is_of_the_published_size():
    profile = load_profile("vqvae")
    plan = plan_stage(profile, "tokenizer", Machine(gpus=8))
    assert plan.parameters == plan.trained == 108_948_355
    assert (plan.gpus, plan.samples, list(plan.memory)) == (8, 128, [0])


def test_steps_are_samples_by_batch():
    himtok, argenseg = (load_profile(name).stages for name in RECIPES)
    assert himtok["align"].steps == math.ceil(7.1e6 / 64)
    assert himtok["tune"].steps == math.ceil(5.0e6 / 128)
    assert argenseg["joint"].steps == math.ceil((402e3 + 1.25e6) / 128)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_without_data_or_weights_says_what_is_missing(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["train", RECIPES[name][-1], f"profile={name}", "size=1B", "train.zero=0"])
    said = capsys.readouterr().err.splitlines()[-1]
    assert left.value.code == 2
    assert "data/refer" in said
    assert not list(tmp_path.glob("data*"))


def test_what_fits_is_the_first_engine_of_which_all_does():
    rows = {zero: dict.fromkeys(PEAKS, 10.0 * (4 - zero)) | {"validating": 99.0} for zero in range(4)}
    plan = StagePlan("a", 8, 1, 1, 1, 1, 1.0, 1.0, rows)
    assert [fitting(plan, Machine(memory=memory)) for memory in (43, 42, 32, 11, 10)] == [0, 1, 1, 3, None]


def test_sizes_are_lines_of_one_table(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    main(["plan", "finetune", "profile=argenseg", "sizes=1B", "gpus=64", "memory=80"])
    said = capsys.readouterr().out
    assert "finetune on 64 GPUs of 80 GB" in said and "CPU: model" in said and "name: argenseg" not in said


def test_the_plan_is_printed(capsys):
    main(["plan", "finetune", "profile=argenseg", "size=1B", "gpus=4", "memory=40"])
    said = capsys.readouterr().out
    assert "finetune" in said and "GB per GPU of 40" in said and "ZeRO-3" in said
