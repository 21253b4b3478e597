"""The named rules of decoding, for both methods: what is fed and decoded under each."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods.argenseg.config import Variant
from methods.base import Decoding, Request, UserError


@pytest.fixture
def taught(writer, writing):
    return writing(writer)


def ask(method, examples, rule="official", temperature=1.0):
    decoding = Decoding(rule=rule, temperature=temperature)
    return method.segment([Request(example.image, ("it",)) for example in examples], decoding)


def test_a_cold_softmax_expects_the_likeliest_token(taught, examples):
    hard, cold = ask(taught, examples[:2], "hard"), ask(taught, examples[:2], "expected", 1e-5)
    for a, b in zip(hard, cold, strict=True):
        assert a.token_ids == b.token_ids
        np.testing.assert_allclose(a.probabilities, b.probabilities, atol=1e-3)


def test_a_warm_one_decodes_something_else(taught, examples):
    hard, warm = ask(taught, examples[:1], "hard")[0], ask(taught, examples[:1], "expected")[0]
    assert np.abs(hard.probabilities - warm.probabilities).max() > 1e-3
    assert len(warm.token_ids) == taught.mask_tokenizer.length and warm.failure is None


def test_hard_decodes_the_ids_that_were_written(taught, examples):
    found = ask(taught, examples[:1], "hard")[0]
    with torch.inference_mode():
        again = taught.mask_tokenizer.decode(torch.tensor([found.token_ids]))[0]
    np.testing.assert_allclose(found.probabilities, again.numpy(), atol=1e-4)


def test_rows_of_a_batch_do_not_mix(taught, examples):
    together = ask(taught, examples[:3], "expected")
    for example, found in zip(examples[:3], together, strict=True):
        np.testing.assert_allclose(ask(taught, [example], "expected")[0].probabilities, found.probabilities, atol=1e-4)


def test_official_rules_are_soft_for_himtok_and_hard_for_argenseg(himtok, argenseg, writing, examples):
    official, hard = (ask(writing(argenseg), examples[:1], rule)[0] for rule in ("official", "hard"))
    assert np.array_equal(official.probabilities, hard.probabilities)
    official, hard = (ask(writing(himtok), examples[:1], rule)[0] for rule in ("official", "hard"))
    assert official.token_ids == hard.token_ids and not np.array_equal(official.probabilities, hard.probabilities)


def test_himtok_expects_embeddings_of_codes_alone(himtok, writing, examples):
    """The feed under "expected" is the mean of the code tokens' embeddings: alike for all, it is exactly that."""
    writing(himtok)
    rows = himtok.backbone.language_model.embed_tokens.weight.data
    low = himtok.processor.mask_token_offset
    rows[low : low + himtok.mask_tokenizer.size] = rows[low]
    hard, expected = (ask(himtok, examples[:1], rule)[0] for rule in ("hard", "expected"))
    assert hard.token_ids == expected.token_ids


def test_argenseg_token_by_token_expects_the_same(argenseg, writing, examples):
    writing(argenseg)
    found = []
    for order in ("scale", "token"):
        argenseg.processor.variant = Variant(order=order)
        found.append(ask(argenseg, examples[:1], "expected")[0])
    np.testing.assert_allclose(found[0].probabilities, found[1].probabilities, atol=1e-4)


@pytest.mark.parametrize(("wrong", "words"), [({"rule": "soft"}, "no rule 'soft' of decoding; choose hard, official"),
                                              ({"temperature": 0.0}, "temperature of decoding is 0.0")])  # fmt: skip
def test_rules_that_do_not_exist_are_named(wrong, words):
    with pytest.raises(UserError, match=words):
        Decoding(**wrong)
