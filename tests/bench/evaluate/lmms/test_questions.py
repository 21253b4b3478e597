"""Requests of lmms-eval as questions, and what models of every method answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench.evaluate.lmms.questions import MOST_TOKENS, Question, batches, read_question
from methods.base import Decoding, UserError
from methods.registry import METHODS, method_spec

PHOTO = Image.new("RGB", (8, 6))
IMAGE, TEXT = {"type": "image", "url": PHOTO}, {"type": "text", "text": "Is it red?"}


def read(content, settings=None, role="user"):
    """The question that a chat task's messages make."""
    messages = [{"role": role, "content": content}]
    return read_question(("", lambda doc: messages, settings, 0, "pope", "test"), {"pope": {"test": ["a document"]}})


def test_a_question_has_an_image_and_the_words_around_it():
    found = read([{"type": "text", "text": "See <image>: "}, IMAGE, TEXT])
    assert (found.image, found.text, found.where) == (PHOTO, "See :\nIs it red?", "pope test, sample 0")
    assert (found.most_tokens, found.stops, found.greedy) == (MOST_TOKENS, (), True)
    request = found.request(tiles=4)
    assert (request.want, request.options.question, request.options.tiles) == (("text",), found.text, 4)


def test_settings_of_a_task_are_kept():
    found = read([IMAGE, TEXT], {"max_new_tokens": 16, "until": ["\n\n", ""], "temperature": 0, "do_sample": False})
    assert (found.most_tokens, found.stops, found.greedy) == (16, ("\n\n",), True)
    assert read([IMAGE, TEXT], {"until": "."}).stops == (".",)
    assert not read([IMAGE, TEXT], {"do_sample": True, "temperature": 0.7}).greedy
    assert not read([IMAGE, TEXT], {"num_beams": 4}).greedy


@pytest.mark.parametrize(
    ("content", "settings", "told"),
    [
        ([IMAGE, IMAGE, TEXT], {}, "pope test, sample 0: holds 2 images, but one image is read"),
        ([TEXT], {}, "holds no image"),
        ("Is it red?", {}, "holds no image"),
        ([{"type": "video", "url": "a.mp4"}, TEXT], {}, "holds video"),
        ([IMAGE, {"type": "text", "text": " <image> "}], {}, "no question in words"),
        ([IMAGE, TEXT], {"max_new_tokens": 0}, "max_new_tokens"),
        ([IMAGE, TEXT], {"max_new_tokens": "many"}, "max_new_tokens"),
        ([IMAGE, TEXT], {"until": [3]}, "until is"),
    ],
)
def test_what_no_model_here_answers_is_named(content, settings, told):
    with pytest.raises(UserError, match=told):
        read(content, settings)


def test_conversations_are_refused():
    with pytest.raises(UserError, match="a conversation of 1 messages"):
        read([IMAGE, TEXT], role="assistant")


@given(st.text("ab.\n", max_size=12), st.lists(st.text("ab.\n", min_size=1, max_size=2), max_size=3))
def test_an_answer_ends_before_the_first_stop_string(text, stops):
    kept = Question("", PHOTO, "?", stops=tuple(stops)).answer(text)
    assert text.startswith(kept)
    assert not any(stop in kept for stop in stops)
    assert kept == text or any(text[len(kept) :].startswith(stop) for stop in stops)


@given(st.lists(st.integers(1, 3), max_size=20), st.integers(1, 5))
def test_batches_keep_order_and_limits(limits, most):
    asked = [Question(str(i), PHOTO, "?", limit) for i, limit in enumerate(limits)]
    found = list(batches(asked, most))
    assert [question for batch in found for question in batch] == asked
    assert all(0 < len(batch) <= most and len({question.most_tokens for question in batch}) == 1 for batch in found)
    assert len(list(batches(asked, 1))) == len(asked)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_answers_in_words(name, build, script):
    assert "text" in method_spec(name).wants
    method = build(name, **({"mask_tokenizer_config": "short"} if name == "argenseg" else {}))
    chain = {"\n": "y", "y": "e", "e": "s", "s": method.processor.chat.stop_id}
    model = script(method, chain).eval()
    asked = [Question("", Image.new("RGB", size), "Is it red?", 8) for size in ((8, 6), (60, 90))]
    found = model.segment([question.request() for question in asked], Decoding(constrained=False, most_tokens=8))
    assert [(each.text, each.failure) for each in found] == [("yes", None)] * 2
    short = model.segment([asked[0].request()], Decoding(constrained=False, most_tokens=2))
    assert short[0].text == "ye"
