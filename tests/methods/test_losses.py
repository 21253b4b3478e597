"""What the losses of every method share: ZeRO 3 gathers a part where it is used, on all processes at the same time."""

import numpy as np
import pytest
import torch
from torch import nn

from bench.train import freezing
from bench.train.freezing import frozen_parts, parameters_of
from methods.base import TrainingSample
from methods.internvl.chat import Turn

STAGES = {"himtok": "align", "argenseg": "joint"}


def words(method) -> TrainingSample:
    """A sample without an image and without a mask."""
    return TrainingSample(
        *method.processor.chat.encode([Turn("user", "what is red?"), Turn("assistant", "a ball.")], 0)
    )


def batches(method, examples) -> dict[str, dict]:
    tasks = ["segment", "box"] + (["segment_tokens"] if method.name == "himtok" else [])
    rng = np.random.default_rng(1)
    samples = {task: [method.processor.prepare(example, task, rng) for example in examples[:2]] for task in tasks}
    samples |= {"words": [words(method)], "all": [each for some in samples.values() for each in some]}
    return {kind: method.processor.collate(some) for kind, some in samples.items()}


def used(method, batch) -> list[str]:
    """The parts that a loss calls, in order, without those that every process holds whole."""
    whole = {id(inner) for *_, part in frozen_parts(method) if isinstance(part, nn.Module) for inner in part.modules()}
    calls: list[str] = []
    hooks = [
        part.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
        for name, part in method.named_modules()
        if id(part) not in whole and any(True for _ in part.parameters(recurse=False))
    ]
    torch.manual_seed(0)
    losses = method.loss(batch)
    for hook in hooks:
        hook.remove()
    assert all(loss.isfinite() for loss in losses.values())
    total = sum(loss for name, loss in losses.items() if not name.startswith("_"))
    method.zero_grad()
    total.backward()
    lacking = {name for name, p in method.named_parameters() if p.requires_grad and p.grad is None}
    return [*calls, *sorted(lacking)]


@pytest.mark.parametrize("name", list(STAGES))
def test_every_batch_uses_the_same_parts_in_the_same_order(build, examples, name):
    method = build(name).train()
    method.enter_stage(STAGES[name])
    found = {kind: used(method, batch) for kind, batch in batches(method, examples).items()}
    assert len(found["all"]) > 10
    for kind, calls in found.items():
        assert calls == found["all"], kind


@pytest.mark.parametrize("name", list(STAGES))
def test_a_frozen_parameter_beside_trained_parts_is_whole_everywhere(build, name):
    """HiMTok's latent tokens, say, are read where a batch has masks and nowhere else: gathering them from all processes
    would wait for those without masks."""
    method = build(name).train()
    method.enter_stage(STAGES[name])
    whole = {id(p) for *_, part in frozen_parts(method) for p in parameters_of(part)}
    frozen = {path: p for path, p in method.named_parameters() if not p.requires_grad}
    assert {path for path, p in frozen.items() if id(p) not in whole} == set()
    if name == "himtok":
        assert "mask_tokenizer.latent_tokens" in frozen


def test_a_large_frozen_part_around_what_trains_is_shared_out(build, monkeypatch):
    """As a backbone under adapters: kept whole, each process would hold nearly all of it."""
    method = build("himtok").requires_grad_(False)
    method.backbone.language_model.layers[0].mlp.up_proj.requires_grad_(True)
    frozen = sum(p.numel() for p in method.backbone.parameters() if not p.requires_grad)
    masks = sum(p.numel() for p in method.mask_tokenizer.parameters())

    def whole() -> int:
        return sum(p.numel() for *_, part in frozen_parts(method) for p in parameters_of(part))

    assert whole() == frozen + masks
    monkeypatch.setattr(freezing, "SMALL", max(frozen, masks))
    assert whole() == min(frozen, masks)
