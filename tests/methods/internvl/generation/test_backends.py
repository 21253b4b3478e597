"""Every way of computing an answer gives the same answer: fast or as released, words expected or written one by one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from methods.base import Decoding, Request, UserError
from methods.internvl.generation.decoder import Decoder
from methods.internvl.generation.kv_cache import SPARE, Stepper

OFFICIAL, GENERATED, DRAFTED = Decoding("official"), Decoding(answer_text="generated"), Decoding()
FORCED = Decoding(answer_text="forced")


def images(count: int) -> list[Image.Image]:
    draws = np.random.default_rng(0).integers(0, 255, (count, 9, 7, 3), np.uint8)
    return [Image.fromarray(pixels).resize((40 + 9 * i, 50)) for i, pixels in enumerate(draws)]


ASKED = [Request(image, (text,)) for image, text in zip(images(3), ("the car", "a red one on the left", "it"),
                                                        strict=True)]  # fmt: skip


def answers(method, decoding: Decoding, requests=ASKED, expected: str | None = None):
    method.processor.expected = lambda request, want, past: expected
    return method.segment(requests, decoding)


def same(found, wanted) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert (one.text, one.token_ids, one.failure) == (other.text, other.token_ids, other.failure)
        assert np.array_equal(one.mask, other.mask)
        if other.probabilities is not None:
            np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-4)


def test_the_fast_path_answers_as_the_reference_path(writer, writing):
    writing(writer)
    wanted = answers(writer, OFFICIAL)
    same(answers(writer, GENERATED), wanted)
    assert all(len(answer.token_ids) == writer.mask_tokenizer.length for answer in wanted)
    assert len({answer.token_ids for answer in wanted}) == len(wanted)  # the masks depend on what was asked


@pytest.mark.parametrize("expected", [":<mask>.", ":<mask>", ":<mask>{", "<mask>.", ":<mask>:", "the <mask>."])
def test_expected_words_change_no_answer(writer, writing, expected):
    """Right, right as far as it goes, and wrong in every place."""
    writing(writer)
    wanted = answers(writer, GENERATED)
    same(answers(writer, DRAFTED, expected=expected), wanted)
    same(answers(writer, DRAFTED, ASKED[:1], expected), wanted[:1])


def test_expected_words_save_steps(writer, writing):
    writing(writer)
    written, checked = (answers(writer, way, ASKED[:1], ":<mask>.")[0] for way in (GENERATED, DRAFTED))
    assert written.steps - checked.steps == 3  # the colon, the start token and the full stop are read with others


def test_imposed_words_are_said_whatever_the_model_wanted(writer):
    fast = answers(writer, FORCED, expected="the red square: <mask>.")
    assert all(answer.text.startswith("the red square:") and answer.failure is None for answer in fast)
    same(answers(writer, replace(FORCED, backend="official"), expected="the red square: <mask>."), fast)


def test_both_methods_expect_their_own_first_wording(build):
    himtok, argenseg = build("himtok"), build("argenseg", mask_tokenizer_config="short")
    assert himtok.processor.expected(ASKED[0], ("mask",)) == "The mask: <mask>."
    both = replace(ASKED[0], want=("mask", "box"))
    assert himtok.processor.expected(both, both.want).endswith("box: <box>{box}</box>.")
    assert himtok.processor.expected(replace(ASKED[0], want=("box", "mask")), ("box", "mask")) is None
    assert argenseg.processor.expected(ASKED[0], ("mask",)) == "Sure, the segmentation result: <mask>."
    assert argenseg.processor.expected(ASKED[0], ("box",)) is None
    before, after = himtok.processor.chat.reply("The mask: <mask>, box: <box>{box}</box>.")
    assert himtok.processor.tokenizer.decode(after) == ", box: <box>"
    ids = himtok.processor.chat.encode([], reply=True)[0]
    assert himtok.processor.chat._text("<|im_start|>assistant\nThe mask: ") == [*ids, *before]


@pytest.mark.parametrize(
    "form", [{"intra_scale": "bidirectional"}, {"order": "token"}, {"head": "hidden"}, {"masks": 2},
             {"head": "hidden", "intra_scale": "bidirectional"}], ids=str
)  # fmt: skip
def test_every_form_of_argenseg(build, writing, form):
    method = writing(build("argenseg", mask_tokenizer_config="short", variant=form))
    wanted = answers(method, OFFICIAL)
    same(answers(method, DRAFTED, expected=":<mask>."), wanted)


def test_questions_about_one_image_read_it_once(writer, writing, monkeypatch):
    writing(writer)
    requests = [replace(request, image=ASKED[0].image) for request in ASKED]
    alone = [answers(writer, DRAFTED, [request])[0] for request in requests]
    read = []
    run = Stepper.run
    monkeypatch.setattr(
        Stepper, "run", lambda self, x, *rest, **more: (read.append(x.shape), run(self, x, *rest, **more))[1]
    )
    together = answers(writer, DRAFTED, requests)
    same(together, alone)
    assert read[0][0] == 1 and read[0][1] > writer.backbone.size.tokens_per_tile
    assert read[1][0] == 3 and read[1][1] < writer.backbone.size.tokens_per_tile
    assert len({answer.token_ids for answer in together}) == 3


def test_unknown_ways_are_refused():
    for wrong in ({"backend": "slow"}, {"answer_text": "guessed"}, {"timing": "all"}):
        with pytest.raises(UserError, match="choose"):
            Decoding(**wrong)


def test_steps_are_timed_on_request(writer, writing):
    writing(writer)
    seconds = answers(writer, Decoding(timing="steps"), ASKED[:1])[0].seconds
    steps = [name for name in seconds if name.startswith("step ")]
    assert len(steps) == (32 if writer.name == "himtok" else 4)
    assert sum(seconds[name] for name in steps) <= seconds["mask"]
    assert not [name for name in answers(writer, DRAFTED, ASKED[:1])[0].seconds if name.startswith("step ")]


# ---- the pass over the layers ----------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, 9), min_size=1, max_size=5), batch=st.integers(1, 3))
@torch.no_grad()
def test_the_layers_in_pieces_equal_transformers_in_one_pass(build, cuts, batch):
    backbone = build("boxes").backbone
    generator = torch.Generator().manual_seed(sum(cuts))
    x = torch.randn(batch, sum(cuts), backbone.width, generator=generator)
    whole = backbone.run(x)
    state = Decoder(backbone, x[:, : cuts[0]], torch.ones(batch, cuts[0], dtype=torch.bool))
    pieces = (
        [state.prompt] + [state.feed(part) for part in x[:, cuts[0] :].split(cuts[1:], 1)]
        if cuts[1:]
        else [state.prompt]
    )
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-4)


@torch.no_grad()
def test_llama_layers_too(tmp_path):
    """The 2B, 8B and larger sizes are Llamas; the same with more keys than were allocated at first."""
    from methods.internvl.backbone import Backbone
    from methods.internvl.config import SIZES

    torch.manual_seed(0)
    backbone = Backbone(replace(SIZES["tiny"], text_family="internlm2"), 50, 3).eval()
    x = torch.randn(1, SPARE + 40, backbone.width)
    state = Decoder(backbone, x[:, :8], torch.ones(1, 8, dtype=torch.bool))
    pieces = [state.prompt, state.feed(x[:, 8:20]), state.feed(x[:, 20:])]
    torch.testing.assert_close(torch.cat(pieces, 1), backbone.run(x), rtol=0, atol=1e-4)
