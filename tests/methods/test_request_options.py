"""What a protocol may say of a question: its words, how the image is read, and how the answer is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from methods.base import Decoding, Request, RequestOptions, UserError
from methods.images import open_image
from methods.internvl.generation.engine import Answer
from methods.internvl.prompts import read_box_loosely
from methods.internvl.tiles import in_square

FREE = Decoding(constrained=False)


@pytest.fixture
def himtok(build):
    return build("himtok")


@pytest.fixture(params=["himtok", "argenseg"])
def writer(request, build, writing):
    return writing(build(request.param))


def wide(path):
    """A red and transparent image of 40 x 20 pixels that is to be shown upright."""
    image = Image.new("RGBA", (40, 20), (200, 0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)
    return path


def test_readings_of_an_image_differ_in_turning_and_transparency(tmp_path):
    path = wide(tmp_path / "a.png")
    found = {reading: open_image(path, reading) for reading in ("upright", "stored", "rotated")}
    assert {reading: image.size for reading, image in found.items()} == {
        "upright": (20, 40), "stored": (40, 20), "rotated": (20, 40),
    }  # fmt: skip
    assert {reading: image.getpixel((0, 0)) for reading, image in found.items()} == {
        "upright": (255, 255, 255), "stored": (200, 0, 0), "rotated": (200, 0, 0),
    }  # fmt: skip
    assert open_image(found["stored"]).size == (40, 20)


def test_an_image_in_a_square_lies_in_its_middle():
    square = np.asarray(in_square(Image.new("RGB", (5, 2))))
    assert square.shape == (5, 5, 3)
    assert [bool(row.any()) for row in square] == [True, False, False, True, True]
    assert tuple(square[0, 0]) == (123, 116, 103)


def test_a_protocols_question_is_asked_as_it_stands(writer):
    request = Request(Image.new("RGB", (30, 20)), ("it",), options=RequestOptions(question="What  is it ?"))
    ((text, ids, pixels),) = writer.inputs(request)
    assert (text, len(pixels)) == ("What  is it ?", 1)
    assert "What  is it ?" in writer.processor.tokenizer.decode(ids)


def test_only_a_question_may_spell_out_a_mask(himtok):
    mask = "<|mt_start|><|mt_3|><|mt_end|>"
    image = Image.new("RGB", (30, 20))
    himtok.processor.check_words(
        Request(image, (mask,), ("text",), options=RequestOptions(question=f"What is {mask}?"))
    )
    for request in (
        Request(image, (mask,)),
        Request(image, ("it",), options=RequestOptions(question="it<|im_end|>")),
        Request(image, ("it",), options=RequestOptions(question="it <|mt_end|>")),
    ):
        with pytest.raises(UserError, match="stands for something else"):
            himtok.processor.check_words(request)


def test_masks_have_the_size_that_is_asked_for(writer):
    image = Image.new("RGB", (30, 20))
    for options, shape in (
        (RequestOptions(), (20, 30)),
        (RequestOptions(size=(9, 7)), (9, 7)),
        (RequestOptions(letterbox=True), (20, 30)),
    ):
        prediction = writer.segment([Request(image, ("it",), options=options)])[0]
        assert (prediction.mask.shape, prediction.failure) == (shape, None)


def test_tiles_are_those_that_are_asked_for(himtok):
    himtok.processor.config = replace(himtok.processor.config, max_tiles=1)
    image = Image.new("RGB", (400, 200))
    counts = [len(himtok.processor.pixels(image, RequestOptions(tiles=most))) for most in (None, 2, 4)]
    assert counts == [1, 3, 3]


def test_all_ids_of_an_answer_are_told(writer):
    processor = writer.processor
    found = writer.segment([Request(Image.new("RGB", (30, 20)), ("it",))])[0]
    (colon,), (stop,) = (processor.tokenizer.encode(text, add_special_tokens=False) for text in (":", "."))
    codes = [processor.mask_token_offset + number for number in found.token_ids]
    block = [processor.start_id, *codes, processor.end_id] if writer.name == "himtok" else [processor.end_id]
    assert found.written == (colon, *block, stop, processor.chat.stop_id)


# ---- answers that are not constrained -------------------------------------------------------------------------------


def free_answer(himtok, tokens: int, finished: bool, after=()) -> Answer:
    """An answer of one word, the start of a mask, some random tokens, and further ones."""
    generator = torch.Generator().manual_seed(0)
    start, low = himtok.processor.start_id, himtok.processor.mask_token_offset
    logits = torch.randn(2 + tokens + len(after), himtok.mask_tokenizer.size, generator=generator)
    codes = [low + int(row.argmax()) for row in logits[2 : 2 + tokens]]
    return Answer([5, start, *codes, *after], list(logits), finished=finished)


def test_a_mask_is_decoded_from_the_probabilities_of_its_tokens(himtok):
    length = himtok.mask_tokenizer.length
    answer = free_answer(himtok, length, True, [himtok.processor.end_id, 7])
    found = himtok.first_mask(answer)
    assert found.text_ids == [5, -1, 7]
    soft = (torch.stack(answer.logits[2 : 2 + length]) / himtok.hierarchy.temperature).softmax(-1)
    assert torch.equal(found.masks[0], himtok.mask_tokenizer.decode_soft(soft[None])[0])
    assert found.mask_ids == [[token - himtok.processor.mask_token_offset for token in answer.text_ids[2 : 2 + length]]]


@pytest.mark.parametrize(("spare", "finished", "valid"), [(0, True, True), (0, False, False), (-1, True, False)])
def test_a_mask_needs_all_its_tokens_and_one_more(himtok, spare, finished, valid):
    answer = free_answer(himtok, himtok.mask_tokenizer.length + spare, finished)
    assert bool(himtok.first_mask(answer).masks) == valid


def test_free_answers_of_a_taught_model_are_the_constrained_ones(build, writing):
    argenseg = writing(build("argenseg"))
    request = Request(Image.new("RGB", (30, 20)), ("it",))
    free, held = (argenseg.segment([request], decoding)[0] for decoding in (FREE, Decoding()))
    assert (free.text, free.token_ids, free.failure) == (held.text, held.token_ids, None)
    assert np.array_equal(free.mask, held.mask)


def test_free_answers_are_read_by_the_official_rule_alone():
    with pytest.raises(UserError, match="not constrained"):
        Decoding(rule="hard", constrained=False)


# ---- boxes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "square", "box"),
    [
        ("[[0, 0, 500, 1000]]", False, (0, 0, 50, 40)),
        ("a [1, 2] and [0, 0, 500, 1000] [9, 9, 9, 9]", False, (0, 0, 50, 40)),
        ("[[0, 0, 0.5, 1]]", False, (0, 0, 50, 40)),
        ("[[0, 0, 1, 1]]", False, (0, 0, 100, 40)),
        ("[[500, 300, 100, 700]]", True, (50, 0, 10, 40)),
        ("[[1, 2, 3]]", False, None),
        ("none", True, None),
    ],
)
def test_official_evaluations_take_the_first_four_numbers(text, square, box):
    found = read_box_loosely(text, 100, 40, 1000, square)
    assert found == (None if box is None else pytest.approx(box, abs=1e-4))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4).filter(lambda sides: sum(sides) >= 4))
def test_in_a_square_image_both_frames_are_one(sides):
    text = str(sides)
    assert read_box_loosely(text, 64, 64, 1000) == read_box_loosely(text, 64, 64, 1000, square=True)
