"""ARGenSeg as a method: its sequence layout, its two losses, what depends on what, and whole scales as budgets."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from methods.argenseg.model import CONTEXT, END, PLACEHOLDER, START
from methods.base import Request, TrainingSample, UserError
from methods.internvl.chat import IGNORED, Turn
from methods.internvl.generation.decoder import Decoder
from methods.internvl.vocabulary import token_id
from methods.registry import method_class, resolve, stage_spec

CLOSE = dict(rtol=0, atol=1e-4)


def prepared(method, examples, task="segment"):
    return [method.processor.prepare(example, task, np.random.default_rng(i)) for i, example in enumerate(examples)]


def conversation(method, turns, masks) -> TrainingSample:
    """A sample without an image, of turns of (role, text)."""
    ids, labels = method.processor.chat.encode([Turn(*turn) for turn in turns], 1, method.processor.mask_block)
    return TrainingSample(ids, labels, masks=list(masks))


def views(side: int, count: int) -> list[np.ndarray]:
    return [(np.indices((side, side)).sum(0) < side * (i + 1) / 2).astype(np.float32) for i in range(count)]


def test_visual_rows_follow_the_text_vocabulary(argenseg):
    tokenizer = argenseg.processor.tokenizer
    last = len(tokenizer)
    assert [token_id(tokenizer, t) for t in (PLACEHOLDER, START, END, CONTEXT)] == list(range(last - 4, last))
    assert (argenseg.processor.mask_token_offset, argenseg.text_rows) == (last, last)
    assert argenseg.backbone.vocabulary == last + argenseg.mask_tokenizer.size


def test_the_whole_layout_is_the_released_one(build, examples, goldens):
    """Input ids, labels, levels and positions of a 680-token block, against the layout written down for the release."""
    golden = json.loads((goldens / "argenseg" / "sequence_layout.json").read_text())
    method = build(
        "argenseg", mask_tokenizer_config={"width": 32, "multipliers": [1] * 5, "blocks": 1}
    )  # all 4096 codes
    sample = prepared(method, examples[:1])[0]
    batch = method.processor.collate([sample])
    ids = torch.tensor([golden["tokens"]])
    method.mask_tokenizer.encode = lambda masks: ids
    method._fill(batch)
    names = {golden["gen_start"]: method.processor.start_id, golden["gen_end"]: method.processor.end_id,
             golden["placeholder"]: method.processor.context_id}  # fmt: skip
    begin = golden["input_ids"].index(golden["gen_start"])
    start = batch["ids"][0].tolist().index(method.processor.start_id)
    length = 1 + 679 + 1
    expected = [names[token] for token in golden["input_ids"][begin : begin + length]]
    assert batch["ids"][0, start : start + length].tolist() == expected
    labels = golden["labels"][begin + 1 : begin + length]
    expected = [label - golden["base"] + method.processor.mask_token_offset for label in labels]
    assert batch["labels"][0, start + 1 : start + length].tolist() == expected
    assert batch["labels"][0, start] == method.processor.start_id  # the start is ordinary text to be learned
    assert method.level_of_slot[1:].tolist() == golden["level_index_of_placeholder"]
    assert golden["pos_index_of_placeholder"] == list(range(1, 680))


def test_exactly_the_block_and_its_end_carry_visual_labels(argenseg, examples):
    batch = argenseg.processor.collate(prepared(argenseg, examples))
    argenseg._fill(batch)
    ids = argenseg.processor.mask_token_offset + argenseg.mask_tokenizer.encode(batch["masks"])
    for row in range(len(examples)):
        start = batch["ids"][row].tolist().index(argenseg.processor.start_id)
        visual = (batch["labels"][row] >= argenseg.processor.mask_token_offset).nonzero().flatten()
        assert visual.tolist() == list(range(start + 1, start + 1 + argenseg.mask_tokenizer.length))
        assert torch.equal(batch["labels"][row, visual], ids[row])
        assert batch["ids"][row, start + argenseg.mask_tokenizer.length] == argenseg.processor.end_id
    assert argenseg.processor.end_id not in batch["labels"]
    assert argenseg.processor.context_id not in batch["labels"]


def test_the_slots_are_fed_the_shrunk_sums_with_level_and_position(argenseg, examples):
    batch = argenseg.processor.collate(prepared(argenseg, examples[:2]))
    embeddings = argenseg._fill(batch)
    cells = argenseg.mask_tokenizer.quantize.teacher_forcing(argenseg.mask_tokenizer.encode(batch["masks"]))
    plain = argenseg.backbone.embed(batch["ids"])
    for row in range(2):
        start = batch["ids"][row].tolist().index(argenseg.processor.start_id)
        slots = slice(start + 1, start + argenseg.mask_tokenizer.length)
        expected = argenseg.word_embed(cells[row])
        expected = expected + argenseg.lvl_embed.weight[argenseg.level_of_slot[1:]] + argenseg.pos_1LC[0, 1:]
        torch.testing.assert_close(embeddings[row, slots], expected)
        rest = torch.ones(len(plain[row]), dtype=torch.bool)
        rest[slots] = False
        assert torch.equal(embeddings[row, rest], plain[row, rest])  # start and end keep their own embeddings


def test_the_loss_is_the_sum_of_two_means(argenseg, examples):
    """By hand: 30 visual and few text tokens, each kind with its own mean over the whole vocabulary."""
    batch = argenseg.processor.collate(prepared(argenseg, examples[:2]))
    losses = argenseg.loss(batch)
    hidden, _ = argenseg.hidden_states(batch, argenseg._fill(batch))
    logp = argenseg.backbone.head(hidden).log_softmax(-1)
    kinds: dict[str, list] = {"text": [], "visual": []}
    for row in range(2):
        for place in range(1, batch["labels"].shape[1]):
            label = int(batch["labels"][row, place])
            if label != IGNORED:
                kinds["visual" if label >= argenseg.processor.mask_token_offset else "text"].append(
                    -logp[row, place - 1, label]
                )
    assert len(kinds["visual"]) == 2 * 30
    for name, values in kinds.items():
        torch.testing.assert_close(losses[name], torch.stack(values).mean(), **CLOSE)
    assert losses.keys() == {"text", "visual"}
    argenseg.token_loss_weighting = "scales"
    lengths = argenseg.mask_tokenizer.quantize.lengths
    rows = torch.stack(kinds["visual"]).view(2, -1).split(list(lengths), 1)
    by_scale = torch.stack([scale.mean() for scale in rows]).mean()
    torch.testing.assert_close(
        argenseg.loss(argenseg.processor.collate(prepared(argenseg, examples[:2])))["visual"], by_scale, **CLOSE
    )


def test_a_batch_without_a_mask_has_text_alone(argenseg, examples):
    losses = argenseg.loss(argenseg.processor.collate(prepared(argenseg, examples[:2], "box")))
    assert losses.keys() == {"text"}
    assert losses["text"].isfinite()


def test_an_empty_mask_from_end_to_end(argenseg, examples, writing):
    """An all-black image is a mask like any other: learned, written, and read as nothing."""
    empty = replace(examples[0], mask=np.zeros((48, 64), bool), box=None)
    losses = argenseg.loss(argenseg.processor.collate(prepared(argenseg, [empty])))
    assert losses["visual"].isfinite()
    with torch.no_grad():
        argenseg.mask_tokenizer.decoder.conv_out.weight.zero_()
        argenseg.mask_tokenizer.decoder.conv_out.bias.fill_(-3.0)
    writing(argenseg)
    found = argenseg.segment([Request(empty.image, empty.expressions)])[0]
    assert found.failure is None
    assert len(found.token_ids) == 30
    assert found.mask.shape == (48, 64)
    assert not found.mask.any()


def test_several_masks_in_one_sample_and_none_in_another(argenseg):
    side = argenseg.mask_tokenizer.resolution
    masks = views(side, 3)
    samples = [
        conversation(argenseg, [("user", "two"), ("assistant", "<mask> and <mask>.")], masks[:2]),
        conversation(argenseg, [("user", "none"), ("assistant", "nothing.")], []),
        conversation(argenseg, [("user", "one <mask>"), ("assistant", "it is")], masks[2:]),
    ]
    batch = argenseg.processor.collate(samples)
    argenseg._fill(batch)
    ids = argenseg.processor.mask_token_offset + argenseg.mask_tokenizer.encode(
        torch.from_numpy(np.stack(masks))[:, None]
    )
    written = batch["labels"][batch["labels"] >= argenseg.processor.mask_token_offset]
    assert torch.equal(written, ids[:2].flatten())  # a mask in a question is read, not learned
    losses = argenseg.loss(argenseg.processor.collate(samples))
    assert all(value.isfinite() for value in losses.values())


@torch.no_grad()
def test_later_scales_leave_earlier_logits_unchanged(argenseg):
    """Other codes in scales 3 and 4 change no logit before scale 4."""
    lengths = argenseg.mask_tokenizer.quantize.lengths
    known = sum(lengths[:2])
    first = torch.randint(64, (1, argenseg.mask_tokenizer.length), generator=torch.Generator().manual_seed(0))
    second = first.clone()
    second[:, known:] = (second[:, known:] + 7) % 64
    sample = conversation(
        argenseg, [("user", "one"), ("assistant", "<mask>.")], views(argenseg.mask_tokenizer.resolution, 1)
    )
    logits = []
    for ids in (first, second):
        argenseg.mask_tokenizer.encode = lambda masks, ids=ids: ids
        batch = argenseg.processor.collate([sample])
        hidden, _ = argenseg.hidden_states(batch, argenseg._fill(batch))
        start = batch["ids"][0].tolist().index(argenseg.processor.start_id)
        logits.append(argenseg.backbone.head(hidden[0, start : start + argenseg.mask_tokenizer.length]))
    until = sum(lengths[:3])
    assert torch.equal(logits[0][:until], logits[1][:until])
    assert not torch.isclose(logits[0][until:], logits[1][until:]).all(-1).any()


def test_what_each_stage_trains(build, argenseg):
    def trainable(method):
        return {name for name, parameter in method.named_parameters() if parameter.requires_grad}

    argenseg.enter_stage("joint")
    names = trainable(argenseg)
    assert {"word_embed.weight", "lvl_embed.weight", "pos_1LC"} <= names
    assert any("language_model" in name for name in names)
    assert any("multi_modal_projector" in name for name in names)
    assert not any(name.startswith("mask_tokenizer.") or "vision_tower" in name for name in names)
    alone = build("argenseg", backbone=None, mask_tokenizer_config="short")
    alone.enter_stage("tokenizer")
    own = {f"mask_tokenizer.{name}" for name, _ in alone.mask_tokenizer.named_parameters()}
    assert own == trainable(alone)


def test_gradients_reach_slots_language_model_and_projector(argenseg, examples):
    argenseg.enter_stage("joint")
    losses = argenseg.loss(argenseg.processor.collate(prepared(argenseg, examples[:2])))
    (losses["text"] + losses["visual"]).backward()
    for parameter in (argenseg.word_embed.weight, argenseg.backbone.projector.linear_1.weight):
        assert parameter.grad.abs().sum() > 0
    assert (argenseg.pos_1LC.grad[0, 1:].abs().sum(-1) > 0).all()
    assert argenseg.pos_1LC.grad[0, 0].abs().sum() == 0  # slot 0 is the start token itself
    assert argenseg.lvl_embed.weight.grad[0].abs().sum() == 0


def test_slot_inputs_start_at_zero_as_released_or_small(backbone_folder, argenseg):
    sizes = {"resolution": 32, "width": 32, "multipliers": [1, 1, 1, 1], "blocks": 1, "codes": 64,
             "scales": [1, 2, 3, 4]}  # fmt: skip
    parts = {"backbone": str(backbone_folder), "mask_tokenizer_config": sizes}
    released = type(argenseg).build(parts, tuple)
    assert released.pos_1LC.abs().sum() == released.word_embed.weight.abs().sum() == 0
    small = type(argenseg).build(parts | {"init": "var"}, tuple)
    assert 0 < float(small.pos_1LC.detach().std()) < 0.2
    with pytest.raises(UserError, match="init is 'large', but must be one of zeros, var, grid"):
        type(argenseg).build(parts | {"init": "large"}, tuple)


def test_a_balance_is_chosen_by_name(backbone_folder, argenseg):
    tokenizer = {"resolution": 8, "width": 32, "multipliers": [1, 1], "blocks": 1, "codes": 16, "scales": [1, 2, 4]}
    parts = {"backbone": str(backbone_folder), "mask_tokenizer_config": tokenizer}
    assert type(argenseg).build(parts, tuple).token_loss_weighting == "tokens"
    assert type(argenseg).build(parts | {"token_loss_weighting": "scales"}, tuple).token_loss_weighting == "scales"
    with pytest.raises(UserError, match="token_loss_weighting is 'other', but must be one of tokens, scales"):
        type(argenseg).build(parts | {"token_loss_weighting": "other"}, tuple)


def test_the_tokenizer_stage_takes_masks_and_scenes_half_and_half(build, examples):
    alone = build("argenseg", backbone=None, mask_tokenizer_config="short", codebook_restart={"warmup": 0})
    alone.enter_stage("tokenizer")
    batch = alone.processor.collate(prepared(alone, examples[:5]))
    images = batch["images"]
    assert images.shape == (5, 3, 32, 32)
    drawn, scenes = images[:3], images[3:]
    assert torch.equal(drawn[:, 0], drawn[:, 1])
    assert (drawn.amin() >= -1, drawn.amax() <= 1) == (True, True)
    assert not torch.equal(scenes[:, 0], scenes[:, 1])
    expected = (
        torch.from_numpy(np.stack([alone.mask_tokenizer.preprocess_mask(example.mask) for example in examples[:3]])) * 2
        - 1
    )
    torch.testing.assert_close(drawn[:, 0], expected)
    assert {"l1", "l2", "quantizer"} <= alone.loss(batch).keys()


# ---- answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 5, 14, 30, None])
def test_a_budget_is_whole_scales(argenseg, writing, examples, tokens):
    writing(argenseg)
    found = argenseg.segment([Request(examples[0].image, ("the red one",), tokens=tokens)])[0]
    assert len(found.token_ids) == (tokens or 30)
    assert (found.text, found.failure) == (":<mask>.", None)


def test_a_smaller_budget_writes_the_first_scales_of_a_larger_one(argenseg, writing, examples):
    writing(argenseg)
    few, whole = argenseg.segment([Request(examples[0].image, ("it",), tokens=n) for n in (14, 30)])
    assert few.token_ids == whole.token_ids[:14]
    with torch.no_grad():
        expected = argenseg.mask_tokenizer.decode(torch.tensor([few.token_ids]))[0]
    torch.testing.assert_close(torch.from_numpy(few.probabilities), expected, **CLOSE)


@pytest.mark.parametrize("tokens", [0, 2, 8, 31])
def test_a_budget_within_a_scale_is_refused_with_the_possible_ones(argenseg, examples, tokens):
    with pytest.raises(UserError, match=rf"whole scales: \[1, 5, 14, 30\] tokens, not {tokens}"):
        argenseg.segment([Request(examples[0].image, ("it",), tokens=tokens)])


def test_each_scale_is_one_step(argenseg, writing, examples):
    writing(argenseg)
    steps = [argenseg.segment([Request(examples[0].image, ("it",), tokens=n)])[0].steps for n in (1, 5, 14, 30)]
    assert np.diff(steps).tolist() == [1, 1, 1]


def test_mask_and_box_are_two_questions(argenseg, writing, examples):
    asked = argenseg.instructions(Request(None, ("it",), ("mask", "box")))
    assert [want for want, _ in asked] == [("mask",), ("box",)]
    writing(argenseg)
    found = argenseg.segment([Request(examples[0].image, ("it",), ("mask", "box"))])[0]
    assert found.text == ":<mask>.\n:<mask>."
    assert found.failure == "no box in the answer"
    assert found.mask.shape == (48, 64)


def test_both_questions_of_a_request_share_what_they_begin_with_alone(argenseg, writing, examples, monkeypatch):
    """A box is not carried as padding through the steps of a mask."""
    writing(argenseg)
    image, rows = examples[0].image, []
    feed = Decoder.feed
    monkeypatch.setattr(Decoder, "feed", lambda self, x, *more: rows.append(len(x)) or feed(self, x, *more))
    mask, box, both = (
        argenseg.segment([Request(image, ("it",), want)])[0] for want in (("mask",), ("box",), ("mask", "box"))
    )
    assert set(rows) == {1}
    assert both.steps == mask.steps + box.steps + 1  # one pass reads what both questions begin with
    assert (both.token_ids, both.box) == (mask.token_ids, box.box)


def test_built_on_a_saved_tokenizer_the_mask_tokenizer_is_the_saved_one(build, backbone_folder, tmp_path):
    alone = build("argenseg", backbone=None, mask_tokenizer_config="short")
    alone.save_pretrained(tmp_path)
    method = method_class("argenseg").build({"backbone": str(backbone_folder), "mask_tokenizer": str(tmp_path)}, tuple)
    ours, saved = method.mask_tokenizer.state_dict(), alone.mask_tokenizer.state_dict()
    assert all(torch.equal(ours[name], saved[name]) for name in saved)


def test_built_on_a_model_of_its_own_everything_is_that_model(build, tmp_path):
    first = build("argenseg", mask_tokenizer_config="short")
    first.save_pretrained(tmp_path)
    second = type(first).build({"start": str(tmp_path)}, tuple)
    ours, saved = second.state_dict(), first.state_dict()
    assert all(torch.equal(ours[name], saved[name]) for name in saved)


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"intra_scale": "bidirectional"}, "model: unknown field 'intra_scale'"),
        ({"variant": {"order_": "token"}}, "variant: unknown field 'order_'"),
        ({"mask_tokenizer_config": {"widths": 3}}, "mask_tokenizer_config: unknown field 'widths'"),
        ({"processor": {"tiles": 3}}, "processor: unknown field 'tiles'"),
    ],
)
def test_unknown_keys_are_refused(build, parts, named):
    with pytest.raises(UserError, match=named):
        build("argenseg", **parts)


def test_a_mask_tokenizer_is_trained_on_with_the_restart_that_is_asked_for(build, tmp_path):
    build("argenseg", backbone=None).save_pretrained(tmp_path)
    alone = resolve(stage_spec("argenseg", "tokenizer").trainee)
    method = alone.build({"start": str(tmp_path), "codebook_restart": {"placed": True, "every": 7}}, tuple)
    method.enter_stage("tokenizer")
    assert (method.heads.restart.placed, method.heads.restart.every) == (True, 7)


@pytest.mark.parametrize("name", ["boxes", "argenseg"])
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"want": ("choice",)}, "not with choice"),
        ({"want": ()}, "not with nothing"),
        ({"expressions": ()}, "no expression"),
        ({"box": (0.0, 0.0, 1.0, 1.0)}, "words alone"),
        ({"points": ((1.0, 1.0),)}, "words alone"),
        ({"mask": np.ones((4, 4), bool)}, "words alone"),
    ],
)
def test_requests_that_it_cannot_serve_are_refused(build, examples, name, changes, named):
    with pytest.raises(UserError, match=named):
        build(name).segment([replace(Request(examples[0].image, ("it",)), **changes)])


def test_no_captions_no_images(argenseg):
    assert argenseg.generate([]) == []


def test_it_answers_with_weights_in_bfloat16(argenseg, examples):
    argenseg.bfloat16()
    assert argenseg.segment([Request(examples[0].image, ("it",))])[0].mask.dtype == bool
