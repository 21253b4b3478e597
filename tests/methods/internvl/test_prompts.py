"""Boxes as text and the shared conversations."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.base import UserError
from methods.internvl.prompts import BOX_REQUESTS, converse, join_expressions, read_box, with_image, write_box

RNG = np.random.default_rng(0)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(2, 3000), st.integers(2, 3000), st.sampled_from([999, 1000]))
def test_a_written_box_is_read_within_half_a_unit(data, width, height, scale):
    x1, y1 = data.draw(st.floats(0, 0.8 * width)), data.draw(st.floats(0, 0.8 * height))
    box = (x1, y1, data.draw(st.floats(x1 + 0.1 * width, width)), data.draw(st.floats(y1 + 0.1 * height, height)))
    found = read_box(f"here: <box>{write_box(box, width, height, scale)}</box>.", width, height, scale)
    assert found is not None
    limit = [(side / scale) * (0.5 + 1e-6) for side in (width, height, width, height)]
    assert all(abs(a - b) <= most for a, b, most in zip(found, box, limit, strict=True))


def test_the_whole_image():
    assert write_box((0, 0, 640, 480), 640, 480, 1000) == "[[0, 0, 1000, 1000]]"
    assert read_box("[[0, 0, 999, 999]]", 640, 480, 999) == (0, 0, 640, 480)


def test_boxes_beyond_the_image_are_cut_to_it():
    assert write_box((-5, -1, 700, 481), 640, 480, 1000) == "[[0, 0, 1000, 1000]]"


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("[1, 2, 3, 4]", (1, 2, 3, 4)),
        ("[[1,2,3,4]]", (1, 2, 3, 4)),
        ("a [[ 1 , 2,3, 4 ]] b [[5, 6, 7, 8]]", (1, 2, 3, 4)),
        ("no box", None),
        ("[[1, 2, 3]]", None),
        ("[[1, 2, 1, 4]]", None),
        ("[[1, 4, 3, 2]]", None),
        ("[[1, 2, 3, x]] then [[5, 6, 7, 8]]", (5, 6, 7, 8)),
        ("", None),
    ],
)
def test_the_first_whole_box_is_read(text, box):
    assert read_box(text, 1000, 1000, 1000) == box


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="[]0123456789, ax", max_size=40))
def test_any_text_gives_a_box_with_area_or_none(text):
    box = read_box(text, 640, 480, 1000)
    assert box is None or (box[0] < box[2] and box[1] < box[3] and min(box) >= 0)


def test_several_expressions_are_numbered():
    assert join_expressions(("one",)) == "one"
    assert join_expressions(("one", "two")) == "Meet all the descriptions: 1. one. 2. two. "


def test_the_image_stands_before_or_after_the_text():
    assert with_image("where?", True) == "<image>\nwhere?"
    assert with_image("where?", False) == "where?\n<image>"


def test_box_conversations_vary_in_wording_and_hold_phrase_and_box(examples):
    example, size = examples[0], (64, 48)
    turns = [converse(example, "box", size, 1000, True, np.random.default_rng(i)) for i in range(30)]
    assert len({turn[0].text for turn in turns}) == len(BOX_REQUESTS)
    for user, assistant in turns:
        assert user.text.startswith("<image>\n")
        assert example.expressions[0] in user.text
        assert read_box(assistant.text, *size, 1000) == pytest.approx(example.box, abs=0.05)


def test_questions_and_captions_are_asked_as_they_are(examples):
    user, assistant = converse(examples[0], "question", (64, 48), 1000, False, RNG)
    assert (user.text, assistant.text) == (f"{examples[0].expressions[0]}\n<image>", "red")


@pytest.mark.parametrize(
    ("task", "changes", "complaint"),
    [
        ("box", {"box": None}, "squares sample 1-red: the task 'box' needs a box"),
        ("caption", {"answer": None}, "squares sample 1-red: the task 'caption' needs an answer"),
        ("paint", {}, "no task called 'paint'"),
    ],
)
def test_what_cannot_be_asked_is_named(examples, task, changes, complaint):
    with pytest.raises(UserError, match=complaint):
        converse(replace(examples[0], **changes), task, (64, 48), 1000, True, RNG)


def test_a_single_expression_is_numbered_where_a_list_is_wanted():
    assert join_expressions(("one",), listed=True) == "Meet all the descriptions: 1. one. "
