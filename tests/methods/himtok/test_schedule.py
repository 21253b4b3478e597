"""When a mask is long enough: the full number, when it has converged, or where the model ends it."""

from dataclasses import replace

import pytest
import torch

from methods.base import DEFAULT, Decoding, Request, UserError
from methods.himtok.adaptive_length import length_curve
from methods.himtok.config import AdaptiveLength
from methods.himtok.prompts import code_token
from methods.himtok.schedule import TokenByToken


def ask(method, examples, **settings):
    return method.segment([Request(examples[0].image, ("it",), **settings)])[0]


@pytest.mark.parametrize("every", [1, 4, 8])
def test_a_mask_that_never_changes_has_converged_at_the_second_look(himtok, writing, examples, every):
    writing(himtok)
    himtok.mask_tokenizer.pixel_decoder.conv_out.weight.data.zero_()  # every prefix decodes to the same image
    himtok.length = AdaptiveLength("early_exit", 0.0, every)
    found = ask(himtok, examples)
    assert len(found.token_ids) == 2 * every
    assert (found.text, found.failure) == (":<mask>.", None)
    himtok.length = AdaptiveLength()
    assert ask(himtok, examples).token_ids[: 2 * every] == found.token_ids


def test_a_mask_that_always_changes_has_the_full_length(himtok, writing, examples, monkeypatch):
    writing(himtok)
    himtok.length = AdaptiveLength("early_exit", 0.5, 4)
    looks = iter(range(100))

    def flickering(schedule):
        return torch.full((1, 4, 4), float(next(looks) % 2))

    monkeypatch.setattr(TokenByToken, "probabilities", flickering)
    assert len(ask(himtok, examples).token_ids) == 32
    assert len(ask(himtok, examples, tokens=6).token_ids) == 6
    assert next(looks) == 7 + 1 + 1 + 1  # seven looks and the answer, one look and the answer


def test_the_mask_is_that_of_the_tokens_written(himtok, writing, examples):
    writing(himtok)
    himtok.length = AdaptiveLength("early_exit", 1.0, 4)
    converged = ask(himtok, examples)
    assert len(converged.token_ids) == 8
    himtok.length = AdaptiveLength()
    budget = ask(himtok, examples, tokens=8)
    assert converged.token_ids == budget.token_ids
    assert torch.equal(torch.from_numpy(converged.probabilities), torch.from_numpy(budget.probabilities))
    assert converged.text == budget.text  # what follows a mask does not depend on why it ended


@pytest.mark.parametrize("count", [1, 3, 8])
def test_the_model_ends_a_mask_itself(himtok, script, examples, count):
    """The chain writes `count` codes and then wants the end token."""
    codes = [himtok.processor.mask_token_offset + i for i in range(count)]
    moves = dict(zip([himtok.processor.start_id, *codes], [*codes, himtok.processor.end_id], strict=True))
    script(himtok, {"\n": himtok.processor.start_id} | moves | {himtok.processor.end_id: "<|im_end|>"})
    himtok.length = AdaptiveLength("end_token")
    found = ask(himtok, examples)
    assert (found.token_ids, found.text, found.failure) == (tuple(range(count)), "<mask>", None)
    assert ask(himtok, examples, tokens=1).token_ids == (0,)
    himtok.processor.budget_in_prompt = (
        True  # then the number is asked for, and whether it is kept is the model's affair
    )
    assert len(ask(himtok, examples, tokens=1).token_ids) == count
    himtok.length = AdaptiveLength()
    assert len(ask(himtok, examples).token_ids) == 32


@pytest.mark.parametrize("rule", ["full", "early_exit", "end_token"])
def test_every_token_is_fed_once_whatever_ends_the_mask(himtok, script, examples, rule):
    codes = [himtok.processor.mask_token_offset + i for i in range(8)]
    moves = dict(zip([himtok.processor.start_id, *codes], [*codes, himtok.processor.end_id], strict=True))
    script(himtok, {"\n": himtok.processor.start_id} | moves | {himtok.processor.end_id: "<|im_end|>"})
    himtok.length = AdaptiveLength(rule, 1.0, 4)
    fed, embed = [], himtok.backbone.embed
    himtok.backbone.embed = lambda ids: fed.append(ids[0].tolist()) or embed(ids)
    request = Request(examples[0].image, ("it",), tokens=8 if rule == "full" else 32)
    himtok.segment([request], Decoding(answer_text="generated"))
    block = [token for call in fed[1:] for token in call]  # the first call is the prompt
    block = block[block.index(himtok.processor.start_id) :]
    assert block == [himtok.processor.start_id, *codes, himtok.processor.end_id]


def test_a_mask_has_at_least_one_token(himtok, script, examples):
    start, end = himtok.processor.start_id, himtok.processor.end_id
    script(himtok, {"\n": start, start: end, end: "<|im_end|>"})
    himtok.length = AdaptiveLength("end_token")
    assert len(ask(himtok, examples).token_ids) >= 1


@pytest.mark.parametrize("rule", ["early_exit", "end_token"])
def test_lengths_do_not_depend_on_the_batch(himtok, writing, examples, rule):
    writing(himtok)
    himtok.length = AdaptiveLength(rule, 0.1, 2)
    requests = [Request(e.image, e.expressions[:1]) for e in examples[:4]]
    together = himtok.segment(requests)
    alone = [himtok.segment([request])[0] for request in requests]
    assert [p.token_ids for p in together] == [p.token_ids for p in alone]


def test_the_curve_starts_at_the_full_length_and_puts_the_rule_back(himtok, writing, examples):
    writing(himtok)
    himtok.length = AdaptiveLength("end_token")
    curve = length_curve(himtok, examples, (0.0, 1.0), every=4)
    assert [point.threshold for point in curve] == [None, 0.0, 1.0]
    assert (curve[0].tokens == 32).all() and (curve[2].tokens == 8).all()
    assert (curve[1].tokens >= curve[2].tokens).all()
    assert (curve[0].lost == 0).all()
    for point in curve:
        assert point.iou.shape == (len(examples),)
        assert point.summary()["lost"] == pytest.approx(curve[0].iou.mean() - point.iou.mean())
    short = himtok.segment([Request(e.image, e.expressions[:1], tokens=8) for e in examples])
    masks = [(p.mask, e.mask) for p, e in zip(short, examples, strict=True)]
    assert curve[2].iou == pytest.approx([(a & b).sum() / (a | b).sum() for a, b in masks])
    assert himtok.length == AdaptiveLength("end_token")


def test_rules_are_checked_and_travel_with_the_model(himtok, tmp_path):
    for wrong in ({"rule": "never"}, {"every": 0}, {"threshold": 1.5}):
        with pytest.raises(UserError):
            AdaptiveLength(**wrong)
    himtok.length = AdaptiveLength("early_exit", 0.05, 2)
    himtok.save_pretrained(tmp_path)
    assert type(himtok).from_pretrained(tmp_path).length == himtok.length


def test_a_rule_of_its_own_refuses_a_batch(himtok):
    schedule = himtok.block(None, DEFAULT).schedule()
    schedule.length = replace(schedule.length, rule="early_exit")
    with pytest.raises(ValueError, match="one row"):
        schedule.next(torch.zeros(2, 1, himtok.mask_tokenizer.size))


def test_the_code_tokens_have_the_released_names():
    assert code_token(1023) == "<|mt_1023|>"
