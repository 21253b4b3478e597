"""A [SEG] token in the model: samples, losses, answers in one step, files, and what of SAM it may start from."""

import numpy as np
import pytest
import torch

from methods.base import Decoding, Request, UserError
from methods.internvl.chat import IGNORED
from methods.registry import method_class
from methods.segtoken.config import MaskDecoderConfig

SMALL = {"width": 32, "layers": 1, "heads": 2, "mlp": 32}
STOP = "<|im_end|>"


@pytest.fixture
def segtoken(build):
    return build("segtoken", mask_decoder=SMALL)


def scripted(script, model):
    return script(model, {"\n": model.processor.start_id, model.processor.start_id: STOP})


def batch_of(model, examples, task="segment", pack=False):
    samples = [model.prepare(example, task, np.random.default_rng(0)) for example in examples]
    return model.collate(samples, pack)


def test_a_sample_learns_the_token_and_the_mask(segtoken, examples):
    sample = segtoken.prepare(examples[0], "segment", np.random.default_rng(0))
    learned = [label for label in sample.labels if label != IGNORED]
    assert learned == [segtoken.processor.start_id, segtoken.processor.chat.stop_id]
    assert sample.masks[0].shape == (64, 64)


@pytest.mark.parametrize("pack", [False, True])
def test_each_mask_meets_its_own_image_and_state(segtoken, examples, pack):
    """The loss of a batch of two images and of a sample without a mask is what its samples have alone."""
    segtoken.enter_stage("joint")
    chosen = [examples[0], examples[4]]
    box = segtoken.prepare(examples[1], "box", np.random.default_rng(0))
    samples = [segtoken.prepare(example, "segment", np.random.default_rng(0)) for example in chosen]
    together = segtoken.loss(segtoken.collate([samples[0], box, samples[1]], pack))
    alone = [segtoken.loss(segtoken.collate([sample])) for sample in samples]
    for name in ("bce", "dice"):
        assert torch.allclose(together[name], torch.stack([each[name] for each in alone]).mean(), atol=1e-5)


def test_a_batch_without_masks_runs_the_same_modules(segtoken, examples):
    segtoken.enter_stage("joint")
    losses = segtoken.loss(batch_of(segtoken, examples[:2], "box"))
    losses["text"].backward()
    trained = [name for name, p in segtoken.named_parameters() if p.requires_grad and p.grad is None]
    assert list(losses) == ["text"] and trained == []


def test_training_lowers_every_loss(segtoken, examples):
    segtoken.enter_stage("joint")
    batch = batch_of(segtoken, examples[:1])
    optimiser, found = torch.optim.Adam(segtoken.parameters(), 1e-3), []
    for _ in range(12):
        losses = segtoken.loss(batch)
        found.append({name: loss.item() for name, loss in losses.items()})
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
    for name in ("text", "bce", "dice"):
        assert found[-1][name] < found[0][name], [each[name] for each in found]


def test_a_mask_is_one_step_of_the_prompts_pass(segtoken, examples, script):
    scripted(script, segtoken)
    requests = [Request(example.image, example.expressions[:1]) for example in examples]
    found = segtoken.segment(requests)
    alone = [segtoken.segment([request])[0] for request in requests]
    for prediction, single, example in zip(found, alone, examples, strict=True):
        assert single.steps == 1 and single.failure is None and single.token_ids == (0,)
        assert single.written == (segtoken.processor.start_id, segtoken.processor.chat.stop_id)
        assert prediction.mask.shape == example.mask.shape
        assert np.allclose(prediction.probabilities, single.probabilities, atol=1e-4)
    assert np.abs(found[0].probabilities - found[3].probabilities).max() > 1e-3  # another image, another mask


@pytest.mark.parametrize(
    "decoding", [Decoding(answer_text="generated"), Decoding("official"), Decoding("cuda_graphs"),
                 Decoding(constrained=False)],
)  # fmt: skip
def test_every_way_of_decoding_gives_the_same_mask(segtoken, examples, script, decoding):
    scripted(script, segtoken)
    request = Request(examples[0].image, ("it",))
    (usual,), (other,) = segtoken.segment([request]), segtoken.segment([request], decoding)
    assert other.failure is None and other.steps >= usual.steps
    assert np.allclose(usual.probabilities, other.probabilities, atol=1e-4)


def test_an_answer_without_the_token_is_a_failure(segtoken, examples, script):
    (prediction,) = script(segtoken, {"\n": "y", "y": STOP}).segment([Request(examples[0].image, ("it",))])
    assert prediction.failure == "no mask in the answer" and not prediction.mask.any()


def test_a_box_is_asked_for_by_itself(segtoken, examples):
    asked = segtoken.processor.instructions(Request(examples[0].image, ("it",), ("mask", "box")))
    assert [want for want, _ in asked] == [("mask",), ("box",)]


def test_without_the_image_all_images_look_alike(build, examples, script):
    blind = build("segtoken", mask_decoder=SMALL | {"image": "zeros"})
    states = torch.randn(1, blind.backbone.width).expand(2, -1)
    patches = torch.randn(2, 256, blind.backbone.size.vision_width)
    assert torch.equal(*blind.mask_decoder(states, patches))
    sighted = build("segtoken", mask_decoder=SMALL)
    assert not torch.allclose(*sighted.mask_decoder(states, patches), atol=1e-3)


def test_a_saved_model_answers_as_before(segtoken, examples, script, tmp_path):
    scripted(script, segtoken).save_pretrained(tmp_path / "model")
    again = method_class("segtoken").from_pretrained(tmp_path / "model")
    request = Request(examples[0].image, ("it",))
    assert np.array_equal(again.segment([request])[0].probabilities, segtoken.segment([request])[0].probabilities)
    assert again.config() == segtoken.config()


def test_it_starts_from_the_mask_decoder_of_a_sam(build, random_sam, tmp_path):
    sam = random_sam()
    sam.save_pretrained(tmp_path / "sam")
    config = {"backbone": "random:tiny", "vocabulary": 320, "mask_decoder": SMALL, "sam": str(tmp_path / "sam")}
    decoder = method_class("segtoken").build(config, lambda: ()).eval().mask_decoder
    image, prompts = torch.randn(1, 32, 8, 8), torch.randn(1, 1, 1, 32)
    places = decoder._positions(8)
    assert torch.allclose(places, sam.get_image_wide_positional_embeddings(), atol=1e-5)
    dense = sam.prompt_encoder.no_mask_embed.weight[0][None, :, None, None].expand(1, -1, 8, 8)
    theirs = sam.mask_decoder(image, places, prompts, dense, False)[0]
    assert torch.allclose(
        decoder.two_way(image, places, prompts, decoder.no_mask, False)[0], theirs, atol=1e-3
    )  # eps differ
    with pytest.raises(UserError, match="does not fit"):
        build("segtoken", mask_decoder=SMALL | {"mlp": 64}).mask_decoder.start_from(sam)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="width is 36"):
        MaskDecoderConfig(width=36)
