"""Images from text: training samples, guidance, and what can be asked for."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from methods.argenseg import prompts as tasks
from methods.argenseg.config import Variant
from methods.argenseg.schedule import Guided
from methods.argenseg.tokenizer_training import random_crop
from methods.base import UserError


def samples_of(method, examples, count: int):
    return [method.processor.prepare(examples[i % 6], "generate", np.random.default_rng(i)) for i in range(count)]


def test_a_caption_becomes_a_question_and_its_image_the_answer(argenseg, examples):
    sample = argenseg.processor.prepare(
        replace(examples[0], answer="two squares"), "generate", np.random.default_rng(0)
    )
    text = argenseg.processor.tokenizer.decode(sample.ids)
    begin = "<|im_start|>user\ntwo squares<|im_end|>\n<|im_start|>assistant\nThe picture is as follows: <ge_start>"
    assert text.startswith(begin)
    assert sample.image is None
    assert sample.masks[0].shape == (3, 32, 32)
    assert (sample.masks[0].min() >= 0, sample.masks[0].max() <= 1) == (True, True)
    assert not np.array_equal(sample.masks[0][0], sample.masks[0][2])  # in colour


def test_a_fifth_of_the_captions_is_left_out(argenseg, examples):
    texts = [argenseg.processor.tokenizer.decode(sample.ids) for sample in samples_of(argenseg, examples, 200)]
    share = np.mean([tasks.NO_PROMPT in text for text in texts])
    assert 0.12 < share < 0.28


def test_a_caption_with_a_token_in_it_is_refused(argenseg, examples):
    with pytest.raises(UserError, match="caption holds '<ge_start>'"):
        argenseg.processor.prepare(replace(examples[0], answer="a <ge_start>"), "generate", np.random.default_rng(0))
    with pytest.raises(UserError, match="caption holds '<mask>'"):
        argenseg.generate(["a <mask>"])


@pytest.mark.parametrize("size", [(64, 48), (20, 90), (33, 33)])
def test_a_crop_is_a_square_of_the_shorter_side(size):
    x = np.linspace(0, 255, size[0]).astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(x[None, :, None], (*size[::-1], 3)).copy())
    crops = [np.asarray(random_crop(image, 32, np.random.default_rng(i))) for i in range(8)]
    assert {crop.shape for crop in crops} == {(32, 32, 3)}
    assert len({crop.tobytes() for crop in crops}) > 1
    assert 32 / 36 * 255 * min(size) / size[0] == pytest.approx(np.ptp(crops[0][..., 0]), rel=0.2)


def test_images_and_masks_learn_in_one_batch(argenseg, examples):
    samples = samples_of(argenseg, examples, 2)
    samples.append(argenseg.processor.prepare(examples[0], "segment", np.random.default_rng(0)))
    batch = argenseg.processor.collate(samples)
    assert batch["masks"].shape == (3, 3, 32, 32)
    losses = argenseg.loss(batch)
    ids = argenseg.mask_tokenizer.encode(batch["masks"])
    alone = torch.from_numpy(samples[2].masks[0])[None, None]
    assert torch.equal(ids[2:], argenseg.mask_tokenizer.encode(alone))
    assert torch.equal(
        batch["labels"][batch["labels"] >= argenseg.processor.mask_token_offset],
        (argenseg.processor.mask_token_offset + ids).flatten(),
    )
    assert all(value.isfinite() for value in losses.values())


def test_text_alone_gives_an_image_of_the_mask_tokenizers_size(argenseg):
    images = argenseg.generate(["a red square", "a rather large blue square in the middle"])
    assert [(image.size, image.mode) for image in images] == [((32, 32), "RGB")] * 2
    assert images[0].tobytes() != images[1].tobytes()
    alone = argenseg.generate(["a red square"])[0]
    assert np.abs(np.asarray(alone, int) - np.asarray(images[0], int)).max() <= 1


def test_drawing_tokens_follows_the_seed(argenseg):
    first, again, other = (argenseg.generate(["a red square"], top_k=20, seed=s)[0].tobytes() for s in (0, 0, 1))
    assert first == again
    assert first != other
    likeliest = argenseg.generate(["a red square"])[0].tobytes()
    assert argenseg.generate(["a red square"], top_k=1, seed=5)[0].tobytes() == likeliest


def test_guidance_by_hand(argenseg):
    """Logits (1 + t) c - t u, t from 0 at the first scale to the full value at the last; both rows take one choice."""
    generator = torch.Generator().manual_seed(0)
    schedule = Guided(argenseg, 3.0)
    for k, side in enumerate((1, 2, 3, 4)):
        logits = torch.randn(4, side * side, 64, generator=generator)
        with torch.no_grad():
            schedule.next(logits)
        expected = ((1 + k) * logits[:2] - k * logits[2:]).argmax(-1)
        assert torch.equal(schedule.chosen[-1], expected.repeat(2, 1))
    assert schedule.ids().shape == (4, 30)


def test_without_guidance_the_empty_prompt_has_no_say(argenseg, monkeypatch):
    free = argenseg.generate(["a red square"], guidance=0.0)[0].tobytes()
    monkeypatch.setattr(tasks, "NO_PROMPT", "something else")
    assert argenseg.generate(["a red square"], guidance=0.0)[0].tobytes() == free
    assert argenseg.generate(["a red square"], guidance=9.0)[0].tobytes() != free


def test_models_that_write_no_scales_say_so(argenseg):
    argenseg.processor.variant = Variant(head="hidden")
    with pytest.raises(UserError, match="tokens of several scales"):
        argenseg.generate(["a red square"])
