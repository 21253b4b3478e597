"""Requests to every method that writes masks: batches, budgets, failures, and masks at the image's size."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from methods.base import Request, RequestOptions
from methods.internvl.generation.kv_cache import Stepper

CLOSE = dict(rtol=0, atol=1e-4)


@pytest.fixture
def taught(writer, writing):
    """A method that answers every prompt with `: <mask>.`"""
    return writing(writer)


def requests_of(examples, count: int = 4) -> list[Request]:
    """Different images, and prompts of different length."""
    phrases = ["it", "the red square on the left of the large blue one", "the large square", "one"]
    chosen = [examples[i] for i in (0, 3, 4, 1)]
    return [Request(e.image, (p,)) for e, p in zip(chosen, phrases, strict=True)][:count]


def test_a_batch_of_four_is_four_batches_of_one(taught, examples):
    requests = requests_of(examples)
    together = taught.segment(requests)
    alone = [taught.segment([request])[0] for request in requests]
    for one, other in zip(together, alone, strict=True):
        assert one.token_ids == other.token_ids
        assert (one.text, one.failure, one.box) == (other.text, other.failure, other.box)
        np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=0, atol=1e-4)
    assert len({prediction.token_ids for prediction in together}) == 4  # image and prompt do change the mask


@pytest.mark.parametrize("tiles", [None, 4])
def test_what_expressions_about_an_image_begin_with_is_read_once(taught, examples, tiles, monkeypatch):
    """Also of several images, of which one may have more tiles; the answers are those of each request by itself."""
    tall = Image.fromarray(np.asarray(examples[3].image).repeat(4, 0))
    asked = [(examples[0].image, "it"), (tall, "the large square"), (examples[0].image, "the red square on the left"),
             (tall, "one")]  # fmt: skip
    options = RequestOptions(tiles=tiles)
    requests = [Request(image, (text,), ("mask", "box"), options=options) for image, text in asked]
    alone = [taught.segment([request])[0] for request in requests]
    read, run = [], Stepper.run
    spied = lambda self, x, *more, **given: read.append(x.shape[:2]) or run(self, x, *more, **given)  # noqa: E731
    monkeypatch.setattr(Stepper, "run", spied)
    together = taught.segment(requests)
    prompts = [ids for request in requests for _, ids, _ in taught.inputs(request)]
    images = [ids.count(taught.processor.chat.image_id) for ids in prompts]
    assert read[0][0] == 2 and read[0][1] > max(images)  # both images' beginnings, in one pass
    longest = max(len(ids) for ids in prompts)
    assert all(rows * count < longest * len(prompts) // 2 for rows, count in read[1:])
    for one, other in zip(together, alone, strict=True):
        assert (one.token_ids, one.text, one.failure) == (other.token_ids, other.text, other.failure)
        np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=0, atol=1e-4)


def test_the_order_of_requests_does_not_matter(taught, examples):
    requests = requests_of(examples)
    forth, back = taught.segment(requests), taught.segment(requests[::-1])[::-1]
    assert [p.token_ids for p in forth] == [p.token_ids for p in back]


def test_budgets_may_be_mixed_and_answers_keep_their_order(taught, examples):
    counts = [taught.mask_tokenizer.prefixes[i] for i in (-1, 0, 2, 0)]
    requests = [Request(r.image, r.expressions, tokens=n) for r, n in zip(requests_of(examples), counts, strict=True)]
    found = taught.segment(requests)
    assert [len(prediction.token_ids) for prediction in found] == counts
    for request, prediction in zip(requests, found, strict=True):
        assert taught.segment([request])[0].token_ids == prediction.token_ids


def test_ids_count_from_zero_in_the_mask_vocabulary(taught, examples):
    for prediction in taught.segment(requests_of(examples)):
        assert len(prediction.token_ids) == taught.mask_tokenizer.length
        assert all(0 <= token < taught.mask_tokenizer.size for token in prediction.token_ids)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (300, 2), (33, 17), (500, 333)])
def test_masks_come_at_the_size_of_the_image(taught, size):
    found = taught.segment([Request(Image.new("RGB", size, "red"), ("it",))])[0]
    assert found.failure is None
    assert (found.mask.shape, found.mask.dtype) == (size[::-1], np.bool_)
    side = taught.mask_tokenizer.resolution
    assert (found.probabilities.shape, found.probabilities.dtype) == ((side, side), np.float32)


def test_a_mask_is_enlarged_before_the_threshold(writer):
    """Between a cell of 0.2 and one of 0.9 the edge lies three sevenths of the way from centre to centre."""
    side = writer.mask_tokenizer.resolution
    soft = torch.full((side, side), 0.2)
    soft[:, side // 2 :] = 0.9
    mask = writer.mask_tokenizer.postprocess_mask(soft, (side, 70 * side))
    assert mask[:, -1].all()
    assert not mask[:, 0].any()
    assert np.abs(mask.argmax(1) - 70 * (side / 2 - 0.5 + 3 / 7)).max() <= 1


def test_a_missing_mask_is_an_empty_one_that_says_so(writer, script, examples):
    script(writer, {"\n": "a", "a": "<|im_end|>"})
    for prediction in writer.segment(requests_of(examples)):
        assert (prediction.text, prediction.failure) == ("a", "no mask in the answer")
        assert not prediction.mask.any()
        assert prediction.token_ids == ()
        assert prediction.probabilities is None


def test_an_answer_without_an_end_is_cut_and_says_so(writer, script, examples):
    script(writer, {"\n": writer.processor.start_id, writer.processor.end_id: "a", "a": "a"})
    prediction = writer.segment(requests_of(examples, 1))[0]
    assert prediction.failure == "the answer was cut off"
    assert len(prediction.token_ids) == writer.mask_tokenizer.length  # the mask before the cut counts
    assert prediction.text.startswith("<mask>aaa")


def test_only_one_mask_is_written(writer, script, examples):
    """A model that wants to begin a second one has to write something else."""
    script(writer, {"\n": writer.processor.start_id, writer.processor.end_id: writer.processor.start_id})
    prediction = writer.segment(requests_of(examples, 1))[0]
    assert prediction.text.count("<mask>") == 1


def test_what_is_timed(taught, examples):
    seconds = taught.segment(requests_of(examples))[0].seconds
    assert set(seconds) == {"preprocess", "vision", "prefill", "text", "mask", "mask_tokenizer", "resize"}
    assert all(value >= 0 for value in seconds.values())


def test_the_vision_tower_runs_once_for_an_image_with_several_questions(taught, examples, monkeypatch):
    seen = []
    patches = taught.backbone.patches
    monkeypatch.setattr(taught.backbone, "patches", lambda pixels: seen.append(len(pixels)) or patches(pixels))
    taught.segment([Request(examples[0].image, (phrase,), ("mask", "box")) for phrase in ("one", "it", "the red")])
    assert seen == [1]


def test_answers_survive_a_round_trip_through_a_folder(taught, examples, tmp_path: Path):
    taught.save_pretrained(tmp_path)
    loaded = type(taught).from_pretrained(tmp_path)
    for one, other in zip(taught.segment(requests_of(examples)), loaded.segment(requests_of(examples)), strict=True):
        assert (one.token_ids, one.text) == (other.token_ids, other.text)


def test_nothing_is_learned_while_answering(taught, examples):
    before = {name: tensor.clone() for name, tensor in taught.state_dict().items()}
    state = torch.get_rng_state()
    taught.segment(requests_of(examples))
    assert all(torch.equal(before[name], tensor) for name, tensor in taught.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_several_tiles_give_the_same_answers_alone_and_together(taught, examples):
    from dataclasses import replace

    taught.processor.config = replace(taught.processor.config, max_tiles=6)
    requests = requests_of(examples)
    alone = [taught.segment([request])[0].token_ids for request in requests]
    assert [prediction.token_ids for prediction in taught.segment(requests)] == alone
