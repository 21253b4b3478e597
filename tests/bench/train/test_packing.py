"""Samples in one row, or in rows of their own: the same losses and gradients."""

import numpy as np
import pytest
import torch

from methods.internvl import model as shared
from methods.internvl.attention import sample_lengths


def step(method, batch):
    """Losses and gradients of a batch, with the same random numbers each time."""
    method.zero_grad()
    torch.manual_seed(0)
    losses = method.loss(batch)
    sum(loss for name, loss in losses.items() if not name.startswith("_")).backward()
    return losses, {name: p.grad for name, p in method.named_parameters() if p.grad is not None}


def assert_same(one, other):
    (losses, gradients), (again, packed) = one, other
    assert losses.keys() == again.keys()
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(again[name].item(), abs=1e-5), name
    assert gradients.keys() == packed.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            packed[name], gradient, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


CASES = [("boxes", "pretrain", ("box", "question")), ("himtok", "align", ("segment", "box", "question")),
         ("argenseg", "joint", ("segment", "box", "question"))]  # fmt: skip


def samples_of(method, examples, tasks):
    return [
        method.processor.prepare(example, tasks[i % len(tasks)], np.random.default_rng(i))
        for i, example in enumerate(examples)
    ]


@pytest.mark.parametrize(("name", "stage", "tasks"), CASES)
def test_packed_and_padded_give_the_same(build, examples, name, stage, tasks):
    method = build(name, **({"mask_tokenizer_config": "short"} if name == "argenseg" else {})).train()
    method.enter_stage(stage)
    samples = samples_of(method, examples, tasks)
    assert len({len(sample.ids) for sample in samples}) > 1
    padded = step(method, method.processor.collate(samples))
    batch = method.processor.collate(samples, pack=True)
    assert batch["ids"].shape == (1, sum(len(sample.ids) for sample in samples))
    assert_same(padded, step(method, batch))


def test_a_mask_of_the_method_keeps_packed_samples_apart(build, examples):
    method = build("himtok").train()
    method.enter_stage("tune")
    samples = samples_of(method, examples, ("segment",))
    batch = method.processor.collate(samples, pack=True)
    length = batch["ids"].shape[1]
    causal = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    with torch.no_grad():
        plain, masked = method.hidden_states(batch)[0], method.hidden_states(batch, mask=causal)[0]
        del batch["positions"], batch["lengths"]
        together = method.hidden_states(batch)[0]
    torch.testing.assert_close(masked, plain, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together, plain, atol=1e-2)


@pytest.mark.parametrize(("name", "stage", "tasks"), CASES)
def test_a_packed_row_needs_no_mask_and_no_pairs_across_samples(build, examples, monkeypatch, name, stage, tasks):
    """However long the row is: the kernel sees one sample at a time, with no mask."""
    method = build(name, **({"mask_tokenizer_config": "short"} if name == "argenseg" else {})).train()
    method.enter_stage(stage)
    samples = samples_of(method, examples, tasks)
    kernel, seen = torch.nn.functional.scaled_dot_product_attention, []

    def spy(query, key, value, attn_mask=None, **words):
        seen.append((query.shape[2], key.shape[2], attn_mask, words.get("is_causal")))
        return kernel(query, key, value, attn_mask=attn_mask, **words)

    batch = method.processor.collate(samples, pack=True)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    with torch.no_grad():
        method.backbone.run(method.backbone.embed(batch["ids"]), sample_lengths(batch["lengths"]), batch["positions"])
    layers = len(method.backbone.language_model.layers)
    assert seen == [(len(sample.ids), len(sample.ids), None, True) for sample in samples] * layers


def test_cross_entropy_in_pieces_is_the_same(build, examples, monkeypatch):
    method = build("himtok").train()
    method.enter_stage("align")
    samples = samples_of(method, examples, ("segment", "box"))
    whole = step(method, method.processor.collate(samples))
    monkeypatch.setattr(shared, "LOGITS", 3 * method.backbone.vocabulary)
    calls, one = [], method._cross_entropy
    monkeypatch.setattr(
        method, "_cross_entropy", lambda states, target: calls.append(len(target)) or one(states, target)
    )
    assert_same(whole, step(method, method.processor.collate(samples)))
    assert max(calls) == 3
    assert len(calls) > 10


def test_activation_checkpoints_change_nothing(build, examples):
    from bench.train.freezing import checkpoint_activations

    method = build("argenseg", mask_tokenizer_config="short").train()
    method.enter_stage("joint")
    samples = samples_of(method, examples, ("segment", "box"))
    plain = step(method, method.processor.collate(samples))
    checkpoint_activations(method)
    assert method.backbone.language_model.gradient_checkpointing
    assert_same(plain, step(method, method.processor.collate(samples)))


def test_every_batch_reaches_the_same_parameters(build, examples):
    """A batch without a mask must not leave out the parts that serve masks: ZeRO's processes would wait for them."""
    for name, stage in (("himtok", "align"), ("argenseg", "joint")):
        method = build(name, **({"mask_tokenizer_config": "short"} if name == "argenseg" else {})).train()
        method.enter_stage(stage)
        without = step(method, method.processor.collate(samples_of(method, examples, ("box",))))[1]
        wanted = step(method, method.processor.collate(samples_of(method, examples, ("segment",))))[1]
        assert without.keys() == wanted.keys()
