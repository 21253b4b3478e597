"""The task "conversation": a written conversation is learnt word by word, by either method."""

from dataclasses import replace

import numpy as np
import pytest

from methods.base import UserError

TURNS = (("user", "<image>\nSegment <ref>it</ref>."), ("assistant", "Sure, mask at <mask>."), ("user", "What is it?"),
         ("assistant", "blue"))  # fmt: skip


def prepared(method, example):
    return method.processor.prepare(example, "conversation", np.random.default_rng(0))


def test_a_written_conversation_is_learnt(writer, examples):
    processor = writer.processor
    sample = prepared(writer, replace(examples[0], turns=TURNS))
    assert len(sample.masks) == 1 and sample.ids.count(processor.start_id) == 1
    learnt = [i for i, label in zip(sample.ids, sample.labels, strict=True) if label != -100]
    text = processor.tokenizer.decode([i for i in learnt if i < processor.mask_token_offset])
    assert "Sure" in text and "blue" in text and "What" not in text
    assert np.isfinite(sum(writer.loss(processor.collate([sample])).values()).item())


def test_a_conversation_without_a_mask(writer, examples):
    sample = prepared(writer, replace(examples[0], turns=TURNS[2:], mask=None))
    assert sample.masks == [] and sample.image is not None


def test_what_cannot_be_learnt_is_named(writer, examples):
    with pytest.raises(UserError, match="the task 'conversation' needs a written one; use other data"):
        prepared(writer, examples[0])
    reserved = (("user", "<image>\n<|im_end|>"), ("assistant", "x"))
    with pytest.raises(UserError, match="a turn holds '<|im_end|>', which stands for something else"):
        prepared(writer, replace(examples[0], turns=reserved))
    with pytest.raises(UserError, match="has no mask, which is needed here; use other data"):
        prepared(writer, replace(examples[0], turns=TURNS, mask=None))
