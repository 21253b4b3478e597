"""Training on the first scales only: which samples, what they look like, and that their loss is that of the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods.argenseg.layout import slots_by_length
from methods.argenseg.prefix import Prefix
from methods.base import UserError


def batch_of(method, examples, shares):
    samples = []
    for number, (example, share) in enumerate(zip(examples, shares, strict=True)):
        method.processor.prefix = Prefix(share, scales=2)
        samples.append(method.processor.prepare(example, "segment", np.random.default_rng([0, number])))
    return samples, method.processor.collate(samples)


def test_blocks_of_a_batch_by_length(argenseg, examples):
    samples, batch = batch_of(argenseg, examples[:3], (1, 0, 1))
    short = argenseg.mask_tokenizer.prefixes[1]
    assert len(samples[1].ids) - len(samples[0].ids) >= argenseg.mask_tokenizer.length - short - 8
    first, second = slots_by_length(batch["ids"], argenseg.processor.start_id, argenseg.processor.end_id)
    assert first.masks.tolist() == [0, 2] and first.columns.shape[1] == short
    assert second.masks.tolist() == [1] and second.columns.shape[1] == argenseg.mask_tokenizer.length
    assert first.rows.flatten().tolist() == [0, 2] and second.rows.flatten().tolist() == [1]


def test_the_short_sample_learns_the_first_tokens_of_its_own_mask(argenseg, examples):
    """Each token's loss equals its loss in the whole block: what is cut off comes after."""
    argenseg.enter_stage("joint")
    losses = {}
    for share in (0, 1):
        _, batch = batch_of(argenseg, examples[3:4], (share,))
        hidden, _ = argenseg.hidden_states(batch, argenseg._fill(batch))
        each, target = argenseg.token_losses(hidden, batch["labels"])
        losses[share] = (
            each[target >= argenseg.processor.mask_token_offset],
            target[target >= argenseg.processor.mask_token_offset],
        )
    kept = argenseg.mask_tokenizer.prefixes[1]
    assert len(losses[1][0]) == kept and torch.equal(losses[1][1], losses[0][1][:kept])
    torch.testing.assert_close(losses[1][0], losses[0][0][:kept], rtol=0, atol=1e-4)


def test_a_mixed_batch_trains(argenseg, examples):
    argenseg.enter_stage("joint")
    argenseg.token_loss_weighting = "scales"
    _, batch = batch_of(argenseg, examples[:3], (1, 0, 1))
    losses = argenseg.loss(batch)
    sum(losses.values()).backward()
    assert torch.isfinite(losses["visual"]) and argenseg.word_embed.weight.grad.abs().sum() > 0


def test_samples_of_an_image_are_alike_whatever_was_drawn_before(argenseg, examples):
    argenseg.processor.prefix = Prefix(0.5, scales=2)
    kinds = set()
    for seed in range(12):
        rng = np.random.default_rng([seed, 2])
        samples = [argenseg.processor.prepare(example, "segment", rng) for example in examples[:3]]
        (slots,) = {1 + sample.ids.count(argenseg.processor.context_id) for sample in samples}
        kinds.add(slots)
    assert kinds == {argenseg.mask_tokenizer.prefixes[1], argenseg.mask_tokenizer.length}


@pytest.mark.parametrize(
    ("prefix", "variant", "words"),
    [
        ({"share": 1.5}, {}, "share is 1.5"),
        ({"share": 0.5, "scales": 10}, {}, "scales is 10 of 10 scales; give 1 to 9"),
        ({"share": 0.5}, {"head": "hidden"}, "needs the head tokens"),
    ],
)
def test_wrong_settings_are_named(build, prefix, variant, words):
    with pytest.raises(UserError, match=words):
        build("argenseg", prefix=prefix, variant=variant)
