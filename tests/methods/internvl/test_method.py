"""Samples, batches and losses of the shared method, and the backbone alone as a method that writes boxes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from methods.base import Example, Prediction, Request, UserError
from methods.himtok.config import MaskTokenizerConfig
from methods.internvl.backbone import DropPath
from methods.internvl.chat import IGNORED
from methods.internvl.generation.engine import Answer
from methods.internvl.model import made
from methods.internvl.tiles import cut_tiles, make_tiles

CLOSE = dict(rtol=0, atol=1e-4)


@pytest.fixture
def internvl(build):
    return build("boxes")


def prepared(method, examples, task="box"):
    return [method.processor.prepare(example, task, np.random.default_rng(i)) for i, example in enumerate(examples)]


def tiled(method, most: int):
    """The same method with up to `most` tiles an image."""
    method.processor.config = replace(method.processor.config, max_tiles=most)
    return method


# ---- training --------------------------------------------------------------------------------------------------


def test_the_device_normalises_bytes_to_the_same_bits(internvl):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
    seen = []
    tower = internvl.backbone.vision_tower
    tower.register_forward_pre_hook(lambda _, args, words: seen.append(words["pixel_values"]), with_kwargs=True)
    with torch.no_grad():
        internvl.backbone.patches(torch.from_numpy(cut_tiles(image, 224, 2)))
    assert torch.equal(seen[0], torch.from_numpy(make_tiles(image, 224, 2)))


def test_drop_path_leaves_branches_out_of_some_images_while_training(internvl):
    pixels = torch.rand(1, 3, 224, 224).expand(16, -1, -1, -1)
    tower = internvl.backbone.vision_tower
    whole = internvl.backbone.patches(pixels)
    internvl.backbone.drop_path(0.5)
    assert torch.equal(internvl.backbone.patches(pixels), whole)  # the model is in evaluation mode
    branches = []
    tower.encoder.layer[0].attention.register_forward_hook(lambda _, args, output: branches.append(output[0]))
    tower.encoder.layer[1].dropout.register_forward_hook(lambda _, args, output: branches.append(output))
    internvl.train()
    internvl.backbone.patches(pixels)
    first, last = ([bool(branch.any()) for branch in each] for each in branches)
    assert all(first) and 0 < sum(last) < 16  # the probability rises over the layers


def test_a_long_sample_loses_text_but_never_its_image_or_a_mask(himtok, examples):
    processor, whole = himtok.processor, himtok.mask_tokenizer.length + 2
    (answer,) = prepared(himtok, examples[:1], "question")
    text = list(answer.ids)
    processor.truncate(answer, len(text), "it")
    assert answer.ids == text
    processor.truncate(answer, len(text) - 2, "it")
    assert answer.ids == text[:-2] and len(answer.labels) == len(answer.ids)
    with pytest.raises(UserError, match="it: its answer begins after"):
        processor.truncate(answer, text.index(processor.chat.image_id) + 70, "it")
    with pytest.raises(UserError, match="image would be cut at 20"):
        processor.truncate(answer, 20, "it")
    (drawn,) = prepared(himtok, examples[:1], "segment")
    end = drawn.ids.index(processor.end_id) + 1
    for length in (end - 1, end - whole + 1):
        with pytest.raises(UserError, match=f"mask would be cut at {length}; raise max_length"):
            processor.truncate(drawn, length, "it")
    processor.truncate(drawn, end, "it")
    assert drawn.ids[-1] == processor.end_id


# ---- samples and batches ----------------------------------------------------------------------------------------


def test_a_sample_holds_the_conversation_and_the_image(internvl, examples):
    sample = prepared(internvl, examples[:1])[0]
    assert sample.ids.count(internvl.processor.chat.image_id) == 64
    assert sample.image.shape == (1, 3, 224, 224)
    learned = internvl.processor.tokenizer.decode([label for label in sample.labels if label != IGNORED])
    assert learned.startswith("<box>[[")
    assert learned.endswith("]]</box><|im_end|>")


def test_preparing_is_a_function_of_example_task_and_generator(internvl, examples):
    first, second = prepared(internvl, examples), prepared(internvl, examples)
    assert [sample.ids for sample in first] == [sample.ids for sample in second]
    wordings = {tuple(internvl.processor.prepare(examples[0], "box", np.random.default_rng(i)).ids) for i in range(20)}
    assert len(wordings) > 1


def test_different_images_are_never_taken_for_one(internvl):
    """Examples that leave their ids at the default are told apart by their images."""
    shades = [Example(Image.new("RGB", (30, 30), (grey,) * 3), ("it",), box=(1, 1, 9, 9)) for grey in (0, 255)]
    samples = prepared(internvl, shades)
    assert not np.array_equal(samples[0].image, samples[1].image)
    assert len(internvl.processor.collate(samples)["pixels"]) == 2


def test_a_batch_pads_on_the_right_and_shares_images(internvl, examples):
    samples = prepared(internvl, [*examples[:2], examples[3]])
    batch = internvl.processor.collate(samples)
    assert batch["pixels"].shape == (2, 3, 224, 224)
    assert batch["tile_of"].tolist() == [0, 0, 1]
    for row, sample in enumerate(samples):
        length = len(sample.ids)
        assert batch["ids"][row, :length].tolist() == sample.ids
        assert batch["labels"][row, :length].tolist() == sample.labels
        assert (batch["labels"][row, length:] == IGNORED).all()


def test_tiles_of_a_shared_image_serve_every_sample(internvl, examples):
    """Several tiles an image: each sample finds its own image's tiles, in order."""
    tiled(internvl, 6)
    samples = prepared(internvl, [examples[3], examples[0], examples[4]])
    counts = [len(sample.image) for sample in samples]
    assert counts[0] == counts[2] != counts[1]
    batch = internvl.processor.collate(samples)
    assert len(batch["pixels"]) == counts[0] + counts[1]
    assert batch["tile_of"].tolist() == [*range(counts[0]), *range(counts[0], sum(counts[:2])), *range(counts[0])]


def test_padding_and_neighbours_change_no_hidden_state(internvl, examples):
    samples = prepared(tiled(internvl, 6), [examples[0], examples[3], examples[1]])
    together, _ = internvl.hidden_states(internvl.processor.collate(samples))
    for row, sample in enumerate(samples):
        alone, _ = internvl.hidden_states(internvl.processor.collate([sample]))
        torch.testing.assert_close(together[row, : len(sample.ids)], alone[0], **CLOSE)


def test_image_tokens_stand_at_their_placeholders_in_reading_order(internvl, examples):
    samples = prepared(tiled(internvl, 6), [examples[3], examples[0]])
    batch = internvl.processor.collate(samples)
    features = internvl.backbone.project(internvl.backbone.patches(batch["pixels"]))
    plain = internvl.backbone.embed(batch["ids"])
    placed = internvl.backbone.place_images(plain, batch["ids"], features[batch["tile_of"]].flatten(0, 1))
    where = batch["ids"] == internvl.processor.chat.image_id
    torch.testing.assert_close(placed[~where], plain[~where])
    torch.testing.assert_close(placed[0, where[0]], features[: len(samples[0].image)].flatten(0, 1))
    torch.testing.assert_close(placed[1, where[1]], features[len(samples[0].image) :].flatten(0, 1))


def test_losses_look_one_token_ahead(internvl, examples):
    batch = internvl.processor.collate(prepared(internvl, examples[:1]))
    hidden, _ = internvl.hidden_states(batch)
    each, target = internvl.token_losses(hidden, batch["labels"])
    logits = internvl.backbone.head(hidden)[0]
    places = [i for i, label in enumerate(batch["labels"][0].tolist()) if label != IGNORED]
    expected = [-logits[i - 1].log_softmax(-1)[batch["labels"][0, i]] for i in places]
    assert target.tolist() == [batch["labels"][0, i].item() for i in places]
    torch.testing.assert_close(each, torch.stack(expected), **CLOSE)
    torch.testing.assert_close(internvl.loss(batch)["text"], each.mean())


def test_pretraining_adds_two_losses_that_reach_both_towers(internvl, examples):
    internvl.enter_stage("pretrain")
    losses = internvl.loss(internvl.processor.collate(prepared(internvl, examples)))
    assert {"text", "dense", "semantic"} <= losses.keys()
    (losses["dense"] + losses["semantic"]).backward()
    for module in (internvl.backbone.vision_tower, internvl.backbone.projector, internvl.backbone.language_model):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_captions_have_no_dense_target_but_train_beside_boxes(internvl, examples):
    internvl.enter_stage("pretrain")
    words = replace(examples[0], mask=None, semantic=None, expressions=("what colour is it",))
    samples = [
        internvl.processor.prepare(words, "question", np.random.default_rng(0)),
        *prepared(internvl, examples[3:5]),
    ]
    losses = internvl.loss(internvl.processor.collate(samples))
    assert all(torch.isfinite(value) for value in losses.values())
    alone = internvl.loss(internvl.processor.collate(samples[:1]))
    assert alone.keys() == {"text"}


def test_an_unknown_stage_and_a_mask_without_a_mask_tokenizer_are_refused(internvl, examples):
    with pytest.raises(UserError, match="boxes has no stage called 'tune'; choose one of pretrain"):
        internvl.enter_stage("tune")
    with pytest.raises(UserError, match="no mask tokenizer"):
        internvl.processor.preprocess_mask(examples[0])


# ---- answers ----------------------------------------------------------------------------------------------------


def test_without_a_box_the_mask_is_empty_and_the_failure_says_so(internvl, script):
    script(internvl, {"\n": "a", "a": "<|im_end|>"})
    prediction = internvl.segment([Request(Image.new("RGB", (200, 100)), ("the car",), ("mask", "box"))])[0]
    assert (prediction.text, prediction.box, prediction.failure) == ("a", None, "no box in the answer")
    assert prediction.mask.shape == (100, 200)
    assert not prediction.mask.any()


def test_a_box_in_the_text_fills_the_mask(internvl):
    prediction = Prediction(np.zeros((100, 200), bool))
    text = internvl.processor.tokenizer.encode("at [[100, 250, 700, 1000]]")
    internvl.read_answer(Answer(text_ids=text, steps=9, finished=True), ("mask", "box"), prediction)
    assert prediction.box == pytest.approx((20, 25, 140, 100))
    assert prediction.mask[25:100, 20:140].all()
    assert prediction.mask.sum() == 75 * 120
    assert (prediction.failure, prediction.steps) == (None, 9)


def test_every_image_passes_the_vision_tower_once(internvl, examples, monkeypatch):
    seen = []
    patches = internvl.backbone.patches
    monkeypatch.setattr(internvl.backbone, "patches", lambda pixels: seen.append(len(pixels)) or patches(pixels))
    internvl.segment([Request(example.image, example.expressions) for example in examples])
    assert seen == [2]


def test_images_may_be_paths_or_images(internvl, examples, tmp_path):
    path = tmp_path / "a.png"
    examples[0].image.save(path)
    answers = internvl.segment([Request(path, ("it",)), Request(examples[0].image, ("it",)), Request(path, ("one",))])
    assert answers[0].text == answers[1].text
    assert internvl.segment([Request(path, ("one",))])[0].text == answers[2].text


def test_seconds_are_shared_out_over_the_batch(internvl, examples):
    answers = internvl.segment([Request(example.image, example.expressions) for example in examples[:2]])
    assert answers[0].seconds == answers[1].seconds
    assert {"preprocess", "vision", "prefill", "text", "resize"} <= answers[0].seconds.keys()


def test_a_file_that_is_no_image_is_named(internvl, tmp_path):
    with pytest.raises(UserError, match="none.png"):
        internvl.segment([Request(tmp_path / "none.png", ("it",))])


@pytest.mark.parametrize("string", ["<image>", "<mask>", "<IMG_CONTEXT>", "<|im_end|>", "<img>"])
def test_an_expression_with_a_meaning_of_its_own_is_refused(writer, examples, string):
    """Read as what it stands for, it would take another image's place or end the turn."""
    text = f"the {string} sign"
    with pytest.raises(UserError, match=r"holds '<.*sign|sign.* holds '<"):
        writer.segment([Request(examples[0].image, (text,))])
    with pytest.raises(UserError, match="squares sample 1-red: the expression holds '<"):
        writer.processor.prepare(replace(examples[0], expressions=("one", text)), "segment", np.random.default_rng(0))


def test_reference_marks_may_stand_in_an_expression(writer, examples):
    assert writer.segment([Request(examples[0].image, ("the <ref>red</ref> <b> one <3",))])[0].text


def test_lists_of_a_file_become_tuples():
    assert made(MaskTokenizerConfig, {"pixel_multipliers": [1, 1, 2, 2, 4]}) == MaskTokenizerConfig()


@pytest.mark.parametrize("answer", ["<image>", "a <mask> b", "<IMG_CONTEXT>", "<|im_end|>"])
@pytest.mark.parametrize("task", ["caption", "question"])
def test_an_answer_with_a_meaning_of_its_own_is_refused(writer, examples, task, answer):
    with pytest.raises(UserError, match="the answer holds"):
        writer.processor.prepare(replace(examples[0], answer=answer), task, np.random.default_rng(0))


def test_a_question_that_is_missing_is_named(writer, examples):
    example = replace(examples[0], expressions=(), answer="yes")
    with pytest.raises(UserError, match="needs a question"):
        writer.processor.prepare(example, "question", np.random.default_rng(0))


def test_pretraining_reads_one_tile(internvl):
    internvl = tiled(internvl, 4)
    with pytest.raises(UserError, match="max_tiles to 1"):
        internvl.enter_stage("pretrain")


@pytest.mark.parametrize("name", ["himtok", "argenseg"])
def test_the_methods_of_both_papers_follow_drop_path(build, name):
    last = build(name, drop_path=0.25).backbone.vision_tower.encoder.layer[-1]
    assert any(isinstance(hook, DropPath) for hook in last.attention._forward_hooks.values())
    assert not build(name).backbone.vision_tower.encoder.layer[-1].attention._forward_hooks
