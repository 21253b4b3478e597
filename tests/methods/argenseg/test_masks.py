"""Masks as images and images as masks, in the two ways, and the wordings that go with them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from methods.argenseg.config import Variant
from methods.argenseg.masks import mask_image, official_grey, to_bytes
from methods.base import Decoding, Request, UserError
from methods.common.masks import letterbox_place, without_letterbox

sizes = st.tuples(st.integers(1, 90), st.integers(1, 90))


def drawn(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return ((x / width - 0.6) ** 2 + (y / height - 0.4) ** 2) < 0.06


@settings(max_examples=40, deadline=None)
@given(sizes, st.sampled_from(["bilinear", "official"]), st.booleans())
@example((33, 1), "official", True)
def test_any_size_becomes_the_mask_tokenizers_square(size, mask_resize, letterbox):
    image = mask_image(Image.fromarray(drawn(*size).astype(np.uint8) * 255), 32, mask_resize, letterbox)
    assert (image.size, image.mode) == ((32, 32), "L")


@settings(max_examples=40, deadline=None)
@given(sizes)
def test_a_letterbox_keeps_the_shape_and_lies_in_the_middle(size):
    left, top, width, height = letterbox_place(size, 32)
    assert max(width, height) == 32
    assert abs(width / 32 - size[0] / max(size)) < 1 / 31
    assert left in ((32 - width) // 2, (33 - width) // 2)
    assert top in ((32 - height) // 2, (33 - height) // 2)


@pytest.mark.parametrize(
    ("size", "width", "height"),
    [((49, 49), 256, 256), ((98, 49), 256, 128), ((103, 206), 128, 256), ((7, 3), 256, 109), ((1000, 1), 256, 1)],
)
def test_the_longer_side_of_a_letterbox_is_never_a_pixel_short(size, width, height):
    assert letterbox_place(size, 256)[2:] == (width, height)


@pytest.mark.parametrize("letterbox", [False, True])
def test_there_and_back_again(letterbox):
    mask = drawn(90, 50)
    image = mask_image(Image.fromarray(mask.astype(np.uint8)), 64, "official", letterbox)  # of 0 and 1
    assert np.asarray(image).max() == 255
    view = torch.from_numpy(np.array(image))
    part = without_letterbox(view, mask.shape) if letterbox else view
    back = official_grey(np.array(Image.fromarray(part.numpy()).convert("RGB")), mask.shape) > 127
    assert (back & mask).sum() / (back | mask).sum() > 0.93


def test_bytes_are_truncated_and_clamped():
    image = torch.tensor([-2.0, -1.0, 0.0, 0.999, 1.0, 3.0]).repeat(3, 6, 1)
    assert to_bytes(image)[0, :, 0].tolist() == [0, 0, 127, 254, 255, 255]


@pytest.mark.parametrize("mask_resize", ["bilinear", "official"])
def test_a_method_converts_as_its_form_says(argenseg, examples, mask_resize):
    masks = argenseg.mask_tokenizer
    masks.config = argenseg.processor.masks = replace(masks.config, mask_resize=mask_resize)
    mask = drawn(90, 50)
    view = argenseg.processor.preprocess_mask(replace(examples[0], mask=mask))
    expected = mask_image(Image.fromarray(mask.astype(np.uint8) * 255), 32, mask_resize)
    np.testing.assert_array_equal(view, np.asarray(expected, np.float32) / 255)
    found = argenseg.mask_tokenizer.postprocess_mask(torch.from_numpy(view), mask.shape)
    assert (found & mask).sum() / (found | mask).sum() > 0.9
    if mask_resize == "official":
        grey = official_grey(np.asarray(expected.convert("RGB")), mask.shape)
        assert (found != (grey > 127)).mean() < 0.01  # 254.99 may be truncated to 254


@pytest.mark.parametrize("mask", [np.zeros((4, 5), np.uint8), np.zeros((0, 5), bool), np.zeros((4, 5, 1), bool)])
def test_a_mask_of_another_kind_names_its_sample(argenseg, examples, mask):
    with pytest.raises(UserError, match=r"squares sample 1-red: the mask is .* must be bool \[height, width\]"):
        argenseg.processor.preprocess_mask(replace(examples[0], mask=mask))


def test_both_mask_resizes_keep_a_thin_mask_alike(argenseg):
    """At 64 px and at 256 px alike their mean overlaps differ by less than 0.0005 (random ellipses)."""
    y, x = np.mgrid[:200, :300]
    mask = ((x - 150) / 100) ** 2 + ((y - 90 - 0.2 * x) / 12) ** 2 < 1
    overlap = {}
    for mask_resize in ("bilinear", "official"):
        masks = argenseg.mask_tokenizer
        masks.config = replace(masks.config, mask_resize=mask_resize)
        view = np.asarray(mask_image(Image.fromarray(mask.astype(np.uint8) * 255), 64, mask_resize), np.float32) / 255
        found = argenseg.mask_tokenizer.postprocess_mask(torch.from_numpy(view), mask.shape)
        overlap[mask_resize] = (found & mask).sum() / (found | mask).sum()
    assert min(overlap.values()) > 0.9
    assert abs(overlap["bilinear"] - overlap["official"]) < 0.02


def test_wordings(argenseg, examples):
    example = replace(examples[0], expressions=("red one", "left"))
    request = Request(None, example.expressions)
    plain = "Given the following instructions: red one, left; please perform referring segmentation on this image."
    assert argenseg.instructions(request)[0][1] == plain
    argenseg.processor.variant = Variant(prompt_template="official")
    asked = " Given the following instructions:  red one. left.; please perform referring segmentation on this image."
    assert argenseg.instructions(request)[0][1] == asked
    turns = argenseg.processor.conversation(example, "segment", (64, 48), np.random.default_rng(0))
    assert turns[0].text == f"<image>\n {plain}"


def test_the_released_mask_resize_weighs_the_channels_of_what_was_drawn(argenseg, examples):
    masks = argenseg.mask_tokenizer
    masks.config = replace(masks.config, mask_resize="official")
    with torch.no_grad():  # a decoder whose channels disagree
        argenseg.mask_tokenizer.decoder.conv_out.bias.copy_(torch.tensor([0.9, -0.2, -0.6]))
        argenseg.mask_tokenizer.decoder.conv_out.weight.mul_(3)
    seen = []
    decode = masks.decode_features
    masks.decode_features = lambda features: seen.append(decode(features)) or seen[-1]
    prediction = argenseg.segment([Request(examples[0].image, ("the red square",))], Decoding(answer_text="forced"))[0]
    grey = official_grey(to_bytes(seen[-1][0]), prediction.mask.shape)
    np.testing.assert_array_equal(prediction.mask, grey > 127)
    assert prediction.probabilities.shape == (32, 32)
