"""Families of conversations: what is said, what is learned, and what a request becomes."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from methods.base import Request, UserError
from methods.himtok import prompts as tasks
from methods.himtok.prompts import END, SLOTS, START, TASKS, PromptTemplate, family_of
from methods.internvl.chat import IGNORED
from methods.internvl.prompts import BOX_REQUESTS

OPTIONS = {"options": ("a blue one", "the red square", "two of them")}
BLOCK = re.compile(rf"{re.escape(START)}((?:<\|mt_\d+\|>)*){re.escape(END)}")


@pytest.fixture(scope="module")
def templates() -> PromptTemplate:
    return PromptTemplate()


@pytest.fixture
def example(examples):
    return replace(examples[0], answer="B", facts=OPTIONS)


def prepared(method, example, task, seed=0):
    sample = method.processor.prepare(example, task, np.random.default_rng(seed))
    text = method.processor.tokenizer.decode(sample.ids)
    learned = method.processor.tokenizer.decode([label for label in sample.labels if label != IGNORED])
    return sample, text, learned


# ---- wordings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", SLOTS)
def test_every_family_has_about_ten_different_wordings(templates, family):
    texts = templates.families[family]
    assert len(texts.requests) == len(set(texts.requests)) >= 10
    assert len(texts.answers) == len(set(texts.answers)) >= (1 if family.startswith("choose") else 10)


def test_the_first_wordings_stay(templates):
    """Models that were trained with them are asked with them."""
    families = templates.families
    assert families["segment"].requests[0] == "Segment <ref>{phrase}</ref>."
    assert families["segment"].answers[0] == "The mask: {mask}."
    assert families["segment_box"].requests[0] == "Segment <ref>{phrase}</ref> and then report its box."
    assert families["segment_box"].answers[0] == "The mask: {mask}, box: <box>{box}</box>."
    assert families["box"].requests[: len(BOX_REQUESTS)] == BOX_REQUESTS


def test_the_short_source_has_three_requests_and_one_answer(templates):
    short = PromptTemplate("short")
    assert short.source == "short"
    for name, family in short.families.items():
        assert family.requests == templates.families[name].requests[:3]
        assert family.answers == templates.families[name].answers[:1]


def test_the_first_wording_is_drawn_half_the_time_and_the_others_all(templates):
    rng = np.random.default_rng(0)
    drawn = [templates.draw("segment", {"phrase": "it", "mask": "<mask>"}, rng) for _ in range(2000)]
    for part, texts in enumerate((templates.families["segment"].requests, templates.families["segment"].answers)):
        found = [pair[part] for pair in drawn]
        assert len(set(found)) == len(texts)
        first = texts[0].format(phrase="it", mask="<mask>")
        assert 0.45 < found.count(first) / len(found) < 0.55


def test_the_released_prompts(templates):
    released = PromptTemplate("official")
    one, two = tasks.phrases(("a cat",)), tasks.phrases(("a cat", "the left one"))
    assert released.request("segment", **one) == "Segment <ref>a cat</ref>."
    assert released.request("segment", **two) == (
        "Segment <ref>Meet all the descriptions: 1. a cat. 2. the left one. </ref>."
    )
    assert released.request("segment_box", **one) == (
        "First create the segmentation mask for <ref>Meet all the descriptions: 1. a cat. 2. a cat. </ref>, "
        "then identify its bounding box."
    )
    assert released.families["box"] == templates.families["box"]


def test_a_file_of_ones_own_replaces_a_family_and_travels_with_the_model(build, backbone_folder, example, tmp_path):
    own = {"segment": {"requests": ["Zeig mir <ref>{phrase}</ref>!"], "answers": ["Hier: {mask}"]}}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(own))
    method = build("himtok")
    method.processor.template = PromptTemplate(path)
    method.save_pretrained(tmp_path / "model")
    path.unlink()
    loaded = type(method).from_pretrained(tmp_path / "model")
    _, text, learned = prepared(loaded, example, "segment")
    assert "Zeig mir <ref>" in text and learned.startswith("Hier: ")
    assert loaded.processor.instructions(Request(None, ("it",)))[0][1] == "Zeig mir <ref>it</ref>!"
    parts = {"start": str(tmp_path / "model"), "prompt_template": "official", "budget_in_prompt": True}
    again = type(method).build(parts, tuple)
    assert (again.processor.template.source, again.processor.budget_in_prompt) == ("official", True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: [", "not valid YAML"),
        ("- 1", "holds no families"),
        ("segmnt: {}", "no family 'segmnt'"),
        ("segment: {requests: [x]}", "must hold {phrase}"),
        ("segment: {requests: ['{phrase} {box}'], answers: ['{mask}']}", "must hold {phrase}"),
        ("segment: {requests: ['{phrase} {'], answers: ['{mask}']}", "must hold {phrase}"),
        ("segment: {requests: ['{phrase}'], answers: []}", "needs `answers`"),
        ("segment: {requests: ['{phrase}'], answers: [yes]}", "needs `answers`"),
        ("segment: 3", "needs `requests`"),
        ("then_box: {requests: ['{phrase}'], answers: ['{box}']}", "must hold no slot"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path, content, words):
    path = tmp_path / "own.yaml"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        PromptTemplate(path)
    assert words in str(error.value) and str(path) in str(error.value)


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match="nowhere.yaml: no such file"):
        PromptTemplate(Path("nowhere.yaml"))


# ---- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_every_task_trains(himtok, example, task):
    himtok.enter_stage("align")
    samples = [prepared(himtok, example, task, seed)[0] for seed in range(4)]
    losses = himtok.loss(himtok.processor.collate(samples))
    assert all(value.isfinite() for value in losses.values())
    learned_masks = sum(sample.labels.count(himtok.processor.end_id) for sample in samples)
    assert ("mask" in losses or "prefix" in losses) == (learned_masks > 0)


@pytest.mark.parametrize(
    ("task", "order"),
    [
        ("segment", "M"), ("segment_box", "MB"), ("box_segment", "BM"), ("box", "B"), ("box_to_mask", "M"),
        ("points_to_mask", "M"), ("mask_to_box", "B"), ("segment_tokens", "M"), ("segment_tokens_box", "MB"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("seed", range(3))
def test_what_is_answered_in_which_order(himtok, example, task, order, seed):
    _, _, learned = prepared(himtok, example, task, seed)
    short = BLOCK.sub("M", learned.removesuffix("<|im_end|>"))
    found = re.findall(r"(?<![a-zA-Z])M(?![a-zA-Z])|<box>\[\[\d+, \d+, \d+, \d+\]\]</box>", short)
    assert "".join("M" if piece == "M" else "B" for piece in found) == order


def test_a_given_mask_box_or_point_is_read_and_not_learned(himtok, example):
    sample, text, learned = prepared(himtok, example, "mask_to_box")
    assert START in text and START not in learned
    assert len(sample.masks) == 1
    _, text, learned = prepared(himtok, example, "box_to_mask")
    assert "<box>" in text and "<box>" not in learned
    assert "<ref>" not in text


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 30))
def test_points_lie_on_the_object(seed, height, width):
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < 0.2
    mask[rng.integers(height), rng.integers(width)] = True
    points = tasks.draw_points(mask, rng)
    assert 1 <= len(points) <= 3
    assert all(mask[int(y), int(x)] for x, y in points)
    numbers = [int(n) for n in re.findall(r"\d+", tasks.write_points(points, width, height, 999))]
    expected = [999 * part / side for x, y in points for part, side in ((x, width), (y, height))]
    assert np.abs(np.array(numbers) - expected).max() <= 0.5


@pytest.mark.parametrize("seed", range(6))
def test_the_number_in_the_request_is_the_number_of_tokens(himtok, example, seed):
    sample, text, learned = prepared(himtok, example, "segment_tokens", seed)
    asked = int(re.search(r"(\d+) (?:mask )?tokens", text)[1])
    assert asked in (8, 16, 32)
    assert BLOCK.search(learned)[1].count("<|mt_") == asked
    batch = himtok.processor.collate([sample])
    rows, columns, counts = himtok._fill(batch)
    codes = himtok.processor.mask_token_offset + himtok.mask_tokenizer.encode(batch["masks"])[0, :asked]
    start = batch["ids"][0].tolist().index(himtok.processor.start_id)
    assert counts.tolist() == [asked]
    assert torch.equal(batch["ids"][0, start + 1 : start + 1 + asked], codes)
    assert torch.equal(batch["labels"][0, start + 1 : start + 1 + asked], codes)
    assert batch["ids"][0, start + 1 + asked] == himtok.processor.end_id
    assert text.split(END)[1] == himtok.processor.tokenizer.decode(batch["ids"][0]).split(END)[1]


def test_blocks_of_all_lengths_share_a_batch(himtok, example):
    himtok.enter_stage("align")
    samples = [prepared(himtok, example, "segment_tokens", seed)[0] for seed in range(14)]
    samples.append(prepared(himtok, example, "mask_to_box")[0])
    batch = himtok.processor.collate(samples)
    start, end = himtok.processor.start_id, himtok.processor.end_id
    lengths = [ids.count(end) and ids.index(end) - ids.index(start) - 1 for ids in batch["ids"].tolist()]
    assert set(lengths) == {8, 16, 32}
    losses = himtok.loss(batch)
    assert {"text", "mask", "hierarchy", "prefix"} <= losses.keys()
    himtok.zero_grad()
    losses["prefix"].backward()
    assert himtok.backbone.native.lm_head.weight.grad[himtok.processor.mask_token_offset :].abs().sum() > 0


def test_a_dialogue_has_two_turns_on_one_object(himtok, example):
    seen = set()
    for seed in range(8):
        _, text, learned = prepared(himtok, example, "dialogue", seed)
        assert text.count("<|im_start|>user") == text.count("<|im_start|>assistant") == 2
        assert text.count("<img>") == 1
        assert learned.count("<|im_end|>") == 2
        assert (START in learned) and ("<box>" in learned)
        seen.add(learned.index(START) < learned.index("<box>"))
    assert seen == {True, False}


def test_choosing_shows_the_mask_and_the_options(himtok, example):
    _, text, learned = prepared(himtok, example, "choose")
    assert "A. a blue one B. the red square C. two of them" in text
    assert START in text
    assert learned == "B<|im_end|>"
    _, text, learned = prepared(himtok, replace(example, answer="A, C"), "choose_several")
    assert learned == "A, C<|im_end|>"


def test_an_answer_may_say_the_words_before_the_letters(himtok, example):
    spoken = {"answers": ["{words}. The answer is {letters}."], "requests": ["{mask}? {options}"]}
    himtok.processor.template = PromptTemplate({"choose": spoken, "choose_several": spoken})
    assert prepared(himtok, example, "choose")[2] == "the red square. The answer is B.<|im_end|>"
    several = prepared(himtok, replace(example, answer="A, C"), "choose_several")[2]
    assert several == "a blue one, two of them. The answer is A, C.<|im_end|>"


@pytest.mark.parametrize(
    ("task", "change", "words"),
    [
        ("box_to_mask", {"box": None}, "'box_to_mask' needs a box"),
        ("segment_box", {"box": None}, "'segment_box' needs a box"),
        ("segment", {"mask": None}, "needs a mask"),
        ("mask_to_box", {"mask": None}, "needs a mask"),
        ("points_to_mask", {"mask": np.zeros((48, 64), bool)}, "empty mask has no points"),
        ("choose", {"answer": None}, "needs an answer text"),
        ("choose", {"facts": {}}, "0 expressions to choose from"),
        ("choose", {"facts": {"options": ("a <mask>", "b")}}, "holds '<mask>'"),
        ("segment", {"mask": np.ones((48, 64), np.uint8)}, "uint8 [48, 64], but must be bool"),
        ("segment", {"mask": np.ones((48, 64, 1), bool)}, "bool [48, 64, 1], but must be bool [height, width]"),
        ("segment", {"mask": np.zeros((0, 4), bool)}, "bool [0, 4]"),
    ],
)
def test_an_example_that_lacks_what_the_task_needs(himtok, example, task, change, words):
    with pytest.raises(UserError) as error:
        prepared(himtok, replace(example, **change), task)
    assert words in str(error.value)
    assert "squares sample 1-red" in str(error.value)


# ---- requests -------------------------------------------------------------------------------------------------------

MASK = np.zeros((48, 64), bool)
MASK[10:30, 5:40] = True
GIVEN = {"mask": MASK, "box": (0.0, 0.0, 32.0, 48.0), "points": ((32.0, 24.0),)}


@pytest.mark.parametrize(
    ("settings", "family"),
    [
        ({}, "segment"), ({"want": ("mask", "box")}, "segment_box"), ({"want": ("box", "mask")}, "box_segment"),
        ({"want": ("box",)}, "box"), ({"box": GIVEN["box"]}, "box_to_mask"),
        ({"points": GIVEN["points"]}, "points_to_mask"), ({"mask": MASK, "want": ("box",)}, "mask_to_box"),
        ({"mask": MASK, "want": ("choice",)}, "choose"), ({"mask": MASK, "want": ("choices",)}, "choose_several"),
    ],
)  # fmt: skip
def test_a_request_is_a_question_of_its_family(settings, family):
    assert family_of(Request(None, ("it",), **settings), False) == family
    assert family_of(Request(None, ("it",), tokens=8, **settings), False) == family


@pytest.mark.parametrize(("want", "family"), [(("mask",), "segment_tokens"), (("mask", "box"), "segment_tokens_box")])
def test_a_number_of_tokens_can_be_asked_for_in_words(himtok, want, family):
    request = Request(None, ("it",), want, tokens=16)
    assert family_of(request, True) == family
    assert "16 tokens" not in himtok.processor.instructions(request)[0][1]
    himtok.processor.budget_in_prompt = True
    assert "it</ref> by 16 tokens" in himtok.processor.instructions(request)[0][1]


@pytest.mark.parametrize("settings", [{"want": ("choice",)}, {"want": ("mask",), "mask": MASK}, {"want": ()}, GIVEN])
def test_what_no_family_serves_is_refused(settings):
    with pytest.raises(UserError, match="HiMTok has no question for"):
        family_of(Request(None, ("it",), **settings), False)


@pytest.mark.parametrize("want", [("box",), ("mask", "box"), ("box", "mask")])
@pytest.mark.parametrize("tokens", [None, 16])
def test_boxes_after_no_some_and_all_mask_tokens(himtok, writing, examples, want, tokens):
    """Grounding with 0, 16 and 32 mask tokens before the box are three requests."""
    writing(himtok)
    found = himtok.segment([Request(examples[0].image, ("it",), want, tokens=tokens)])[0]
    assert len(found.token_ids) == ((tokens or 32) if "mask" in want else 0)
    assert found.mask.any() <= ("mask" in want)
    assert found.failure == "no box in the answer"  # this model never writes one


def test_given_things_reach_the_prompt(himtok):
    image = Image.new("RGB", (64, 48), "red")
    asked = {name: himtok.processor.instructions(Request(image, (), want, **{name: GIVEN[name]}))[0][1]
             for name, want in (("box", ("mask",)), ("points", ("mask",)), ("mask", ("box",)))}  # fmt: skip
    assert "<box>[[0, 0, 500, 999]]</box>" in asked["box"]
    assert "[[500, 500]]" in asked["points"]
    request = Request(image, (), ("box",), mask=MASK)
    ids = himtok.processor.prompt(himtok.instructions(request)[0][1], 1)
    start = ids.index(himtok.processor.start_id)
    view = torch.from_numpy(himtok.processor.preprocess_mask(replace_mask(MASK)))
    assert (
        ids[start + 1 : start + 33]
        == (himtok.processor.mask_token_offset + himtok.mask_tokenizer.encode(view[None, None])[0]).tolist()
    )
    assert ids[start + 33] == himtok.processor.end_id


def replace_mask(mask):
    from methods.base import Example

    return Example(None, ("it",), mask)


def test_a_question_about_a_mask_is_answered_in_words(himtok, script, examples):
    script(himtok, {"\n": "B", "B": "<|im_end|>"})
    requests = [Request(examples[0].image, ("a", "b"), ("choice",), mask=mask) for mask in (MASK, ~MASK)]
    found = himtok.segment(requests)
    assert [(p.text, p.failure, p.token_ids) for p in found] == [("B", None, ())] * 2
    states = []
    embed = himtok.backbone.embed
    himtok.backbone.embed = lambda ids: states.append(ids.clone()) or embed(ids)
    himtok.segment(requests)
    first, second = next(ids for ids in states if len(ids) == 2)  # what they begin with is read once, before
    assert not torch.equal(first, second)  # the prompts differ in the mask's codes


def test_a_given_mask_of_another_size_is_refused(himtok, examples):
    wrong = Request(examples[0].image, ("a", "b"), ("choice",), mask=MASK[:40])
    with pytest.raises(UserError, match="is 64x40 pixels, its image 64x48"):
        himtok.segment([wrong])


def test_a_given_mask_of_the_wrong_kind_is_refused(himtok, examples):
    wrong = Request(examples[0].image, ("a", "b"), ("choice",), mask=MASK.astype(np.float32))
    with pytest.raises(UserError, match=r"the request: the mask is float32 \[48, 64\], but must be bool"):
        himtok.segment([wrong])


# ---- conversations --------------------------------------------------------------------------------------------------


def test_a_conversation_keeps_what_was_said(himtok, writing, examples):
    writing(himtok)
    image, prompts = examples[0].image, []
    encode = himtok.processor.chat.encode
    object.__setattr__(
        himtok.processor.chat, "encode", lambda *a, **k: prompts.append(encode(*a, **k)[0]) or encode(*a, **k)
    )
    first, second = himtok.converse([Request(image, ("the red one",)), Request(image, (), ("box",))])
    alone = himtok.segment([Request(image, ("the red one",))])[0]
    assert first.token_ids == alone.token_ids
    begin = prompts[0].copy()
    assert prompts[1][: len(begin)] == begin
    assert prompts[2] == begin
    after = himtok.processor.tokenizer.decode(prompts[1][len(begin) :])
    assert tasks.spelled_out(first.token_ids) in after
    assert prompts[1].count(himtok.processor.start_id) == 1
    assert "And its box?" in after
    assert himtok.processor.tokenizer.decode(prompts[1]).count("<img>") == 1
    assert second.failure == "no box in the answer"


def test_turns_are_about_one_image(himtok, writing, examples):
    writing(himtok)
    requests = [Request(examples[0].image, ("it",)), Request(examples[3].image, ("it",))]
    with pytest.raises(UserError, match="about one image"):
        himtok.converse(requests)
    assert himtok._past == []


@pytest.mark.parametrize(("want", "family"), [(("box",), "then_box"), (("mask",), "then_segment")])
def test_a_follow_up_needs_something_before_it(want, family):
    assert family_of(Request(None, (), want), False, later=True) == family
    assert family_of(Request(None, ("it",), want), False, later=True) != family
    assert family_of(Request(None, (), want), False) != family
