"""Masks as text in the model: samples, constrained and free answers, files."""

import numpy as np
import pytest
import torch

from methods.base import Decoding, Request, UserError
from methods.internvl.chat import IGNORED
from methods.textmask.schedule import Spelled

FREE = Decoding(constrained=False)


@pytest.fixture(params=["polygon", "rows"])
def textmask(request, build):
    budget = {"polygon": 16, "rows": 24}[request.param]
    return build(f"text{request.param}", mask_tokenizer_config={"budget": budget, "resolution": 32})


@pytest.mark.parametrize("task", ["segment", "segment_tokens"])
def test_a_sample_spells_the_mask_as_the_text_tokenizer_would(textmask, examples, task):
    processor = textmask.processor
    sample = processor.prepare(examples[0], task, np.random.default_rng(0))
    learned = [label for label in sample.labels if label != IGNORED]
    text = processor.tokenizer.decode(learned)
    assert text.startswith("<quad>") and text.endswith("</quad><|im_end|>")
    assert processor.tokenizer.encode(text, add_special_tokens=False) == learned
    assert len(sample.ids) == len(sample.labels) and not sample.masks
    assert [i for i, label in zip(sample.ids, sample.labels, strict=True) if label != IGNORED] == learned


def test_a_request_for_fewer_tokens_names_the_smaller_budget(textmask, examples):
    masks, processor = textmask.mask_tokenizer, textmask.processor
    ((_, text),) = processor.instructions(Request(examples[0].image, ("it",), tokens=masks.prefixes[0]))
    assert str(masks.budgets[masks.prefixes[0]]) in text
    with pytest.raises(UserError, match="in 7 tokens"):
        processor.instructions(Request(examples[0].image, ("it",), tokens=7))


def test_every_budget_comes_back(textmask, examples):
    masks = textmask.mask_tokenizer
    views = torch.from_numpy(np.stack([masks.preprocess_mask(example.mask) for example in examples]))
    for tokens in masks.prefixes:
        again = masks.decode(masks.encode(views[:, None], tokens))
        overlap = ((again > 0.5) & (views > 0.5)).sum() / ((again > 0.5) | (views > 0.5)).sum()
        assert overlap > 0.7, tokens


def test_answers_keep_to_the_grammar_alone_and_in_a_batch(textmask, examples, script):
    start, end = textmask.processor.start_id, textmask.processor.end_id
    script(textmask, {"\n": start, end: "<|im_end|>"})
    requests = [Request(example.image, example.expressions[:1]) for example in examples]
    found = textmask.segment(requests)
    alone = [textmask.segment([request])[0] for request in requests]
    assert [p.token_ids for p in found] == [p.token_ids for p in alone]
    assert [p.written for p in found] == [p.written for p in alone]
    for prediction in found:
        assert prediction.corrections > 0  # random weights
        assert prediction.written[0] == start and prediction.written[-2] == end
        assert len(prediction.written) == len(prediction.token_ids) + 3
        assert prediction.failure is None or "the text is no mask" in prediction.failure
        assert prediction.mask.any() or prediction.failure


def test_a_forced_answer_has_a_usual_mask(textmask, examples):
    requests = [Request(example.image, ("it",)) for example in examples[:2]]
    for prediction in textmask.segment(requests, Decoding(answer_text="forced")):
        assert prediction.failure is None and 0.05 < prediction.mask.mean() < 0.15


def test_rows_that_end_early_do_not_change_the_others(textmask):
    masks, processor = textmask.mask_tokenizer, textmask.processor
    schedule = Spelled(textmask.backbone, masks, processor.start_id, torch.tensor(processor.symbol_ids))
    schedule.first(2)
    logits = torch.zeros(2, 1, textmask.backbone.vocabulary)
    logits[0, 0, processor.symbol_ids[1]] = 5
    logits[1, 0, processor.end_id] = 5
    assert schedule.next(logits) is not None
    assert schedule.unfinished.tolist() == [True, False] and schedule.corrections == [0, 0]
    logits[0, 0, processor.start_id] = 9  # not of the notation
    schedule.next(logits)
    assert schedule.corrections == [1, 0] and schedule.texts == ["11", "."]


def test_an_answer_that_is_not_constrained_is_read_or_fails_with_a_reason(textmask, examples, script):
    start, end = textmask.processor.start_id, textmask.processor.end_id
    request = Request(examples[0].image, ("it",))
    (broken,) = script(textmask, {"\n": start, start: "y", "y": end, end: "<|im_end|>"}).segment([request], FREE)
    assert broken.failure == "the text is no mask: it holds more than numbers and separators" and not broken.mask.any()
    (none,) = script(textmask, {"\n": "y", "y": "<|im_end|>"}).segment([request], FREE)
    assert none.failure == "no mask in the answer"


def test_a_saved_model_answers_as_before(textmask, examples, script, tmp_path):
    script(textmask, {"\n": textmask.processor.start_id, textmask.processor.end_id: "<|im_end|>"})
    textmask.save_pretrained(tmp_path / "model")
    again = type(textmask).from_pretrained(tmp_path / "model")
    request = Request(examples[0].image, ("it",), tokens=textmask.mask_tokenizer.prefixes[0])
    assert again.segment([request])[0].token_ids == textmask.segment([request])[0].token_ids
    assert again.config() == textmask.config()


def test_training_lowers_the_loss(textmask, examples):
    samples = [textmask.prepare(example, "segment", np.random.default_rng(0)) for example in examples]
    batch = textmask.collate(samples)
    textmask.enter_stage("joint")
    optimizer = torch.optim.SGD(textmask.parameters(), 1e-2)
    losses = []
    for _ in range(3):
        losses.append(textmask.loss(batch)["text"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
