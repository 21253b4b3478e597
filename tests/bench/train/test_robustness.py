"""What a run does with broken images, bad losses, signals, and settings that do not fit."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch

from bench.config import StageConfig, TrainConfig
from bench.data.sampler import MixtureComponent, Sampler
from bench.distributed import SINGLE_PROCESS, DistributedContext
from bench.train import batches
from bench.train.batches import MicroBatches, micro_batch_size, stream
from bench.train.checkpoints import checkpoints
from bench.train.engine import freeze, parameter_groups, rate
from bench.train.freezing import enter
from bench.train.loop import Run, run_stage
from bench.train.throughput import FlopMeter, memory_gigabytes, peak_flops
from methods.base import UserError

CPU = torch.device("cpu")


@pytest.fixture
def make(build, squares, tmp_path):
    """make(**settings) -> a Run of the backbone on three images, in a folder of its own."""

    def made(folder="run", train=None, data=None, **settings) -> Run:
        config = StageConfig(**{"method": "boxes", "stage": "pretrain", "steps": 6, "images_per_step": 2,
                                "expressions_per_image": 2,
                                "warmup": 2, "lr": 1e-3} | settings)  # fmt: skip
        component = MixtureComponent({"box": data or squares(3)}, {"box": 1.0})
        order = Sampler([component], config.images_per_step, config.expressions_per_image, config.seed)
        settings = TrainConfig(**{"threads": 1, "precision": "float32", "log_every": 1, "save_minutes": 1e9}
                               | (train or {}))  # fmt: skip
        return Run("test", tmp_path / folder, build("boxes"), order, config, settings)

    return made


class Damaged:
    """A dataset in which the samples of one image cannot be opened."""

    def __init__(self, whole, image: int):
        self.whole, self.image = whole, image

    def __len__(self):
        return len(self.whole)

    def __getitem__(self, index):
        if index // 3 == self.image:
            raise UserError(f"squares sample {index}: damaged.")
        return self.whole[index]

    def by_image(self):
        return self.whole.by_image()


def test_broken_images_are_replaced_counted_and_named(make, squares, capsys):
    run = make(data=Damaged(squares(3), 1))
    run_stage(run, CPU)
    said = capsys.readouterr().err
    assert "replaced an image: squares sample" in said
    assert "damaged" in said


def test_too_many_broken_images_stop_the_run(make, squares, monkeypatch):
    run = make(data=Damaged(squares(3), 1), train={"corrupt_ratio": 0.002})
    with pytest.raises(UserError, match=r"test: [3-9] images of \d+ could not be used, more than train.corrupt_ratio"):
        run_stage(run, CPU)


def test_data_without_one_usable_image_stop_the_run(make, squares):
    whole = squares(1)
    with pytest.raises(UserError, match="8 images in a row cannot be used; the last: squares sample [012]: damaged"):
        run_stage(make(data=Damaged(whole, 0)), CPU)


def test_sigterm_saves_and_exits_with_0_and_the_run_goes_on(make):
    run_stage(make("whole"), CPU)
    run = make("stopped")
    loss, calls = run.method.loss, []

    def stopping(batch):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(batch)

    run.method.loss = stopping
    with pytest.raises(SystemExit) as leaving:
        run_stage(run, CPU)
    assert leaving.value.code == 0
    assert [path.name for path in checkpoints(run.folder)] == ["checkpoint-00000003"]
    again = make("stopped")
    run_stage(again, CPU)
    for name in ("train.jsonl", "model/model.safetensors"):
        assert (again.folder / name).read_bytes() == (make("whole").folder / name).read_bytes()


def test_an_exploding_loss_stops_with_its_samples(make):
    run = make(warmup=1)
    loss, calls = run.method.loss, []

    def exploding(batch):
        calls.append(1)
        return {name: value * (1e4 if len(calls) == 4 else 1) for name, value in loss(batch).items()}

    run.method.loss = exploding
    with pytest.raises(UserError, match=r"the loss jumped from \d.* to \d.* at step 3; lower lr .*squares:\d-"):
        run_stage(run, CPU)
    calm = make("calm", train={"loss_spike_factor": 0.0}, warmup=1)
    loss, calls = calm.method.loss, []
    calm.method.loss = exploding
    run_stage(calm, CPU)


def test_a_checkpoint_of_other_data_is_refused(make, squares):
    run = make(train={"save_minutes": 0.0})
    run.stage = replace(run.stage, steps=99)
    loss, calls = run.method.loss, []

    def dying(batch):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return loss(batch)

    run.method.loss = dying
    with pytest.raises(KeyboardInterrupt):
        run_stage(run, CPU)
    with pytest.raises(UserError, match="the checkpoint was made with images = 3, now it is 2; set it back"):
        run_stage(make(data=squares(2)), CPU)


# ---- micro-batches ----------------------------------------------------------------------------------------------


def test_micro_batches_are_accumulated(make):
    """One micro-batch of four samples or two of two: the same mean where every sample has as many learned tokens."""
    run_stage(make("whole"), CPU)
    run_stage(make("parts", micro_batch_images=1), CPU)
    logs = [
        [json.loads(line) for line in (make(name).folder / "train.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    assert logs[0][0]["text"] == pytest.approx(logs[1][0]["text"], rel=0.05)
    assert [line["samples"] for line in logs[0]] == [line["samples"] for line in logs[1]]


def test_processes_share_the_micro_batches_of_each_step(make):
    run = make(images_per_step=4, micro_batch_images=1)
    parts = MicroBatches(
        run.method.processor, run.order, run.stage, micro_batch_size(run.stage, DistributedContext(0, 2))
    )
    whole = [micro.names for micro in stream(parts, SINGLE_PROCESS, 3, 0)]
    shared = [[micro.names for micro in stream(parts, DistributedContext(rank, 2), 3, 0)] for rank in (0, 1)]
    assert len(whole) == 3 * 4
    assert [name for pair in zip(*shared, strict=True) for name in pair] == whole


def test_workers_prepare_the_same(make):
    run = make(micro_batch_images=1)
    parts = MicroBatches(run.method.processor, run.order, run.stage, 1)
    alone, helped = list(stream(parts, SINGLE_PROCESS, 0, 0)), list(stream(parts, SINGLE_PROCESS, 0, 2))
    assert [micro.names for micro in alone] == [micro.names for micro in helped]
    assert all(torch.equal(a.batch["ids"], b.batch["ids"]) for a, b in zip(alone, helped, strict=True))


@pytest.mark.parametrize(("images", "micro", "size"), [(4, 3, 1), (4, 2, 4), (2, 0, 3)])
def test_steps_that_cannot_be_dealt_are_refused(images, micro, size):
    with pytest.raises(UserError, match=f"{images} images per step cannot be dealt to {size} processes"):
        micro_batch_size(
            StageConfig(method="m", stage="s", steps=1, images_per_step=images, micro_batch_images=micro),
            DistributedContext(0, size),
        )


def test_the_seed_of_a_micro_batch_is_its_own(make):
    run = make(micro_batch_images=1)
    seeds = [
        micro.seed
        for micro in stream(MicroBatches(run.method.processor, run.order, run.stage, 1), SINGLE_PROCESS, 0, 0)
    ]
    assert len(set(seeds)) == len(seeds) == 12
    assert batches.ATTEMPTS > 1


# ---- what is trained, and how fast ------------------------------------------------------------------------------


def test_freeze_and_rates_by_name(himtok):
    himtok.enter_stage("tune")
    config = StageConfig(method="himtok", stage="tune", steps=1, lr=0.1,
                         lr_scale={"*vision_tower*": 0.1, "*lm_head*": 2.0})  # fmt: skip
    freeze(himtok, ["*embed_tokens*", "backbone.native.model.multi_modal_projector.*"])
    names = {name for name, p in himtok.named_parameters() if not p.requires_grad}
    assert any("embed_tokens" in name for name in names)
    groups, none = parameter_groups(himtok, config)
    assert none == []
    by_rate = {}
    for name, p in himtok.named_parameters():
        rates = [group["lr"] for group in groups if any(p is q for q in group["params"])]
        assert len(rates) == p.requires_grad
        if rates:
            key = "vision" if "vision_tower" in name else "head" if "lm_head" in name else "rest"
            by_rate.setdefault(key, set()).update(round(r, 9) for r in rates)
    assert by_rate == {"vision": {0.01}, "head": {0.2}, "rest": {0.1}}


def test_a_pattern_that_fits_nothing_is_refused(himtok):
    with pytest.raises(UserError, match="No parameter is called 'tail.*'"):
        freeze(himtok, ["tail.*"])


def test_freezing_everything_is_refused(make):
    run = make(freeze=["*"])
    with pytest.raises(UserError, match="Nothing is left to be trained"):
        run_stage(run, CPU)


def test_a_tokenizer_is_not_trained_with_zero(build):
    method = build("himtok", backbone=None)
    stage = StageConfig(method="himtok", stage="tokenizer", steps=1)
    with pytest.raises(UserError, match="moves codes in place, of which ZeRO keeps copies; set train.zero=0"):
        enter(method, stage, TrainConfig(zero=1))


def test_the_cosine_falls_from_the_warm_up_to_the_floor():
    config = StageConfig(method="m", stage="s", steps=110, warmup=10, schedule="cosine", min_lr_ratio=0.1)
    found = [rate(step, config) for step in range(110)]
    assert found[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert found[10] == 1
    assert found[60] == pytest.approx(0.55)
    assert all(a >= b for a, b in zip(found[10:], found[11:], strict=False))
    assert found[-1] == pytest.approx(0.1, abs=1e-3)


def test_lora_without_peft_says_what_is_missing(make, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(UserError, match="needs peft; install it with `pip install peft`"):
        run_stage(make(lora={"r": 4, "target_modules": ["q_proj"]}), CPU)


class Layers(torch.nn.Module):
    """Two linear layers of which some are frozen; `loss` calls them without a call of the whole, as a method does."""

    def __init__(self, frozen: tuple[str, ...]):
        super().__init__()
        self.inner = torch.nn.ModuleDict({"first": torch.nn.Linear(8, 16), "second": torch.nn.Linear(16, 4)})
        for name in frozen:
            self.inner[name].requires_grad_(False)

    def loss(self, x):
        return self.inner["second"](self.inner["first"](x))

    forward = loss


@pytest.mark.parametrize("way", ["loss", "forward"])
@pytest.mark.parametrize(("frozen", "first", "second"), [((), 3, 3), (("first",), 1, 3), (("second",), 3, 2)])
def test_model_flops_of_trained_and_frozen_layers(frozen, first, second, way):
    module, meter = Layers(frozen), FlopMeter(1e6)
    with meter.counting(module, 10):
        module(torch.zeros(10, 8)) if way == "forward" else module.loss(torch.zeros(10, 8))
    assert meter.per_token == first * 2 * 8 * 16 + second * 2 * 16 * 4
    assert meter.utilisation(1e6 / meter.per_token) == pytest.approx(1)
    assert not module.inner["first"]._forward_hooks
    assert FlopMeter(None).utilisation(5.0) is None
    assert memory_gigabytes(CPU) > 0


class Attention(torch.nn.Module):
    """Two heads of queries for each one of keys, as Qwen2 and InternLM2 have them."""

    def __init__(self, kernel):
        super().__init__()
        self.kernel = kernel
        self.weight = torch.nn.Parameter(torch.ones(1, 4, 5, 8))

    def forward(self, keys):
        return self.kernel(self.weight, keys, keys)


@pytest.mark.parametrize(
    ("device", "kernel"),
    [
        ("cpu", lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)),
        ("meta", lambda q, k, v: torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]),  # that of a GPU
    ],
)
def test_flops_of_fused_attention_with_grouped_heads(device, kernel):
    module, meter = Attention(kernel).to(device), FlopMeter(1e6)
    with meter.counting(module, 10):
        module(torch.ones(1, 2, 7, 8, device=device))
    assert meter.per_token == 3 * 2 * (2 * 4 * 5 * 7 * 8) / 10


@pytest.mark.parametrize(
    ("device", "peak"),
    [("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA H200", 989e12), ("NVIDIA RTX A1000 Laptop GPU", None)],
)
def test_a_devices_peak_is_known_by_its_name(monkeypatch, device, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: device)
    assert peak_flops(torch.device("cuda")) == peak


def test_the_speed_is_logged(make):
    run = make()
    run_stage(run, CPU)
    lines = [json.loads(line) for line in (run.folder / "speed.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(line["samples/s"] > 0 and line["tokens/s"] > line["samples/s"] and line["GB"] > 0 for line in lines)
