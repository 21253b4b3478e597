"""HiMTok as a method: its vocabulary, labels, stages, gradients and budgets."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from methods.base import Request, TrainingSample, UserError
from methods.himtok.prompts import END, START, PromptTemplate, code_token
from methods.internvl.chat import IGNORED
from methods.internvl.vocabulary import token_id
from methods.registry import method_class

CLOSE = dict(rtol=0, atol=1e-4)


def prepared(method, examples, task="segment"):
    return [method.processor.prepare(example, task, np.random.default_rng(i)) for i, example in enumerate(examples)]


def text_of(method, ids) -> str:
    return method.processor.tokenizer.decode([token for token in ids if token != IGNORED])


def test_the_vocabulary_is_start_end_and_codes_at_the_very_end(himtok):
    tokenizer = himtok.processor.tokenizer
    last = len(tokenizer) - himtok.mask_tokenizer.size
    assert [token_id(tokenizer, code_token(i)) for i in range(himtok.mask_tokenizer.size)] == list(
        range(last, len(tokenizer))
    )
    assert (token_id(tokenizer, START), token_id(tokenizer, END)) == (last - 2, last - 1)
    assert himtok.backbone.vocabulary == len(tokenizer)
    assert (himtok.processor.mask_token_offset, himtok.text_rows) == (last, last)


def test_a_sample_asks_for_the_expression_and_answers_with_a_block(himtok, examples):
    sample = prepared(himtok, examples[:1])[0]
    assert examples[0].expressions[0] in text_of(himtok, sample.ids)
    answer = text_of(himtok, sample.labels)
    assert answer.startswith(f"The mask: {START}")
    assert answer.endswith(f"{END}.<|im_end|>")
    assert len(sample.masks) == 1
    assert sample.masks[0].shape == (64, 64)


def test_the_mask_comes_before_the_box(himtok, examples):
    answer = text_of(himtok, prepared(himtok, examples[:1], "segment_box")[0].labels)
    assert answer.index(END) < answer.index("<box>[[")


def test_boxes_run_to_999(himtok, examples):
    whole = replace(examples[0], box=(0.0, 0.0, 64.0, 48.0))
    assert "[[0, 0, 999, 999]]" in text_of(himtok, prepared(himtok, [whole], "segment_box")[0].labels)


def test_codes_replace_the_placeholders_in_inputs_and_labels(himtok, examples):
    batch = himtok.processor.collate(prepared(himtok, examples))
    himtok._fill(batch)
    codes = himtok.processor.mask_token_offset + himtok.mask_tokenizer.encode(batch["masks"])
    for row in range(len(examples)):
        start = batch["ids"][row].tolist().index(himtok.processor.start_id)
        assert torch.equal(batch["ids"][row, start + 1 : start + 33], codes[row])
        assert torch.equal(batch["labels"][row, start + 1 : start + 33], codes[row])
        assert batch["ids"][row, start + 33] == batch["labels"][row, start + 33] == himtok.processor.end_id
    assert len(codes.unique(dim=0)) > 1


def conversation(himtok, turns, masks) -> TrainingSample:
    """A sample without an image, of turns of (role, text)."""
    from methods.internvl.chat import Turn

    ids, labels = himtok.processor.chat.encode([Turn(*turn) for turn in turns], 1, himtok.processor.mask_block)
    return TrainingSample(ids, labels, masks=list(masks))


def views(count: int) -> list[np.ndarray]:
    return [(np.indices((64, 64)).sum(0) < 20 + 25 * i).astype(np.float32) for i in range(count)]


def test_masks_of_a_question_are_read_but_not_learned(himtok):
    turns = [("user", "what is <mask>?"), ("assistant", "<mask>, red.")]
    batch = himtok.processor.collate([conversation(himtok, turns, views(2))])
    himtok.enter_stage("align")
    blocks = himtok._fill(batch)
    codes = himtok.processor.mask_token_offset + himtok.mask_tokenizer.encode(batch["masks"])
    starts = (batch["ids"][0] == himtok.processor.start_id).nonzero().flatten()
    assert [batch["ids"][0, s + 1 : s + 33].tolist() for s in starts] == codes.tolist()
    assert (batch["labels"][0, starts[0] + 1 : starts[0] + 33] == IGNORED).all()
    assert batch["labels"][0, starts[1] + 1 : starts[1] + 33].tolist() == codes[1].tolist()
    hidden, _ = himtok.hidden_states(batch)
    both = himtok._mask_losses(hidden, batch, blocks)
    assert both["mask"].isfinite()


def test_several_masks_in_one_sample_and_none_in_another(himtok):
    """Every mask finds its own block, in reading order over the batch."""
    samples = [
        conversation(himtok, [("user", "two"), ("assistant", "<mask> and <mask>.")], views(2)),
        conversation(himtok, [("user", "none"), ("assistant", "nothing.")], []),
        conversation(himtok, [("user", "one"), ("assistant", "<mask>")], views(3)[2:]),
    ]
    batch = himtok.processor.collate(samples)
    rows, columns, _ = himtok._fill(batch)
    assert rows[:, 0].tolist() == [0, 0, 2]
    codes = himtok.processor.mask_token_offset + himtok.mask_tokenizer.encode(
        torch.from_numpy(np.stack(views(3)))[:, None]
    )
    assert torch.equal(batch["ids"][rows, columns], codes)
    himtok.enter_stage("align")
    losses = himtok.loss(himtok.processor.collate(samples))
    assert {"text", "mask", "hierarchy", "_codes"} <= losses.keys()
    assert all(value.isfinite() for value in losses.values())


def test_a_batch_without_a_mask_has_the_text_loss_alone(himtok, examples):
    himtok.enter_stage("align")
    assert himtok.loss(himtok.processor.collate(prepared(himtok, examples[:2], "box"))).keys() == {"text"}


def test_in_octaves_the_first_tokens_weigh_more_and_the_block_as_much(himtok, examples):
    short = prepared(himtok, examples[:1], "segment_tokens")
    batch = himtok.processor.collate(prepared(himtok, examples, "segment_box") + short)
    blocks = himtok._fill(batch)
    himtok.token_loss_weighting = "octaves"
    weights = torch.zeros(batch["labels"].shape)
    learned = batch["labels"][:, 1:] != IGNORED
    weights[:, 1:][learned] = himtok._weights(batch["labels"], blocks)
    for row in range(len(blocks.rows)):
        count = int(blocks.counts[row])
        block = weights[row, blocks.columns[row, :count]]
        assert block.sum() == pytest.approx(count)
        firsts = [0, 1, 2, 4, 8, 16]
        octaves = [block[a:b].sum() for a, b in zip(firsts, [*firsts[1:], 32], strict=True) if a < count]
        assert torch.stack(octaves).tolist() == pytest.approx([count / len(octaves)] * len(octaves), rel=1e-5)
        weights[row, blocks.columns[row, :count]] = 1
    assert (weights[:, 1:][learned] == 1).all()


def test_tokens_alike_is_the_plain_mean(himtok, examples):
    batch = himtok.processor.collate(prepared(himtok, examples))
    himtok.enter_stage("tune")
    plain = himtok.loss({k: v.clone() for k, v in batch.items()})["text"]
    blocks = himtok._fill(batch)
    assert blocks is not None
    each, _ = himtok.token_losses(himtok.hidden_states(batch)[0], batch["labels"])
    torch.testing.assert_close(plain, each.mean())


def test_codes_that_are_alike_can_begin_alike(himtok):
    """The rows are a linear map of the unit code vectors, one for inputs and one for outputs."""
    himtok.initialise("codes", 0)
    codes = torch.nn.functional.normalize(himtok.mask_tokenizer.quantize.table(), dim=-1).detach()
    tables = himtok.backbone.language_model.embed_tokens.weight, himtok.backbone.native.lm_head.weight
    for table in tables:
        rows = (table[himtok.processor.mask_token_offset :] - table[: himtok.processor.start_id].mean(0)).detach()
        solved = torch.linalg.lstsq(codes, rows).solution
        torch.testing.assert_close(codes @ solved, rows, rtol=0, atol=1e-3 * float(rows.abs().max()))
    assert not torch.equal(
        tables[0][himtok.processor.mask_token_offset :], tables[1][himtok.processor.mask_token_offset :]
    )


@pytest.mark.parametrize("parts, words", [
    ({"token_loss_weighting": "scales"}, "token_loss_weighting is 'scales', but must be one of tokens, octaves"),
    ({"init": "zeros"}, "init is 'zeros', but must be one of mean, codes"),
])  # fmt: skip
def test_unknown_choices_of_training_are_named(build, parts, words):
    with pytest.raises(UserError, match=words):
        build("himtok", **parts)


def test_the_mask_loss_reads_the_states_before_each_code(himtok, examples):
    """The probabilities are those of the 32 states that predict the codes, softened by the temperature."""
    himtok.enter_stage("align")
    batch = himtok.processor.collate(prepared(himtok, examples[:2]))
    himtok.hierarchy = replace(himtok.hierarchy, levels=0)
    loss = himtok.loss(batch)["mask"]
    hidden, _ = himtok.hidden_states(batch)
    logits = himtok.backbone.head(hidden)[..., himtok.processor.mask_token_offset :]
    soft = []
    for row in range(2):
        start = batch["ids"][row].tolist().index(himtok.processor.start_id)
        soft.append((logits[row, start : start + 32] / 0.5).softmax(-1))
    from methods.himtok.hierarchy import mask_loss

    expected = mask_loss(
        himtok.mask_tokenizer.logits(himtok.mask_tokenizer.mix(torch.stack(soft))), batch["masks"][:, 0], 0.25
    )
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-5)


def reached(module) -> bool:
    grads = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    return any(grad.abs().sum() > 0 for grad in grads)


def test_soft_codes_carry_the_mask_loss_into_the_language_model(himtok, examples):
    himtok.enter_stage("align")
    losses = himtok.loss(himtok.processor.collate(prepared(himtok, examples)))
    (losses["mask"] + losses["hierarchy"]).backward()
    assert reached(himtok.backbone.language_model)
    assert reached(himtok.backbone.vision_tower)
    assert reached(himtok.mask_tokenizer.decoder)
    assert reached(himtok.mask_tokenizer.pixel_decoder)
    assert not reached(himtok.mask_tokenizer.encoder)
    assert not reached(himtok.mask_tokenizer.quantize)
    assert himtok.mask_tokenizer.latent_tokens.grad is None


def trainable(method) -> set[str]:
    names = [name for name, parameter in method.named_parameters() if parameter.requires_grad]
    return {".".join(name.split(".")[:2]) for name in names}


def test_what_each_stage_trains(build, himtok):
    himtok.enter_stage("align")
    assert trainable(himtok) == {"backbone.native", "mask_tokenizer.decoder", "mask_tokenizer.pixel_decoder"}
    himtok.enter_stage("tune")
    assert trainable(himtok) == {"backbone.native"}
    alone = build("himtok", backbone=None)
    alone.enter_stage("tokenizer")
    parts = ("encoder", "quantize", "decoder", "latent_tokens")
    assert {f"mask_tokenizer.{part}" for part in parts} <= trainable(alone)


def test_tuning_has_no_mask_loss(himtok, examples):
    himtok.enter_stage("tune")
    assert himtok.loss(himtok.processor.collate(prepared(himtok, examples[:2]))).keys() == {"text", "_codes"}


def test_the_tokenizer_stage_trains_on_masks_alone(build, examples):
    alone = build("himtok", backbone=None, codebook_restart={"warmup": 0})
    alone.enter_stage("tokenizer")
    batch = alone.processor.collate(prepared(alone, examples))
    assert batch["masks"].shape == (6, 1, 64, 64)
    assert {"reconstruction", "quantizer"} <= alone.loss(batch).keys()
    assert alone.heads.warmup == 0


def test_the_mask_tokenizers_view_keeps_soft_edges_and_resizes_to_a_square(himtok, examples):
    view = himtok.processor.preprocess_mask(examples[3])  # an image of 90 x 40
    assert (view.shape, view.dtype) == ((64, 64), np.float32)
    assert (view.min(), view.max()) == (0, 1)
    assert ((view > 0.1) & (view < 0.9)).any()
    assert view.mean() == pytest.approx(examples[3].mask.mean(), abs=0.01)
    with pytest.raises(UserError, match="squares sample 1-red: has no mask, which is needed here"):
        himtok.processor.preprocess_mask(replace(examples[0], mask=None))


# ---- answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 8, 31, 32, None])
def test_a_budget_is_the_number_of_codes(himtok, writing, examples, tokens):
    writing(himtok)
    found = himtok.segment([Request(examples[0].image, ("the red one",), tokens=tokens)])[0]
    assert len(found.token_ids) == (tokens or 32)
    assert found.failure is None
    assert found.text == ":<mask>."


def test_a_smaller_budget_writes_the_first_codes_of_a_larger_one(himtok, writing, examples):
    writing(himtok)
    few, all_of_them = himtok.segment([Request(examples[0].image, ("it",), tokens=n) for n in (8, 32)])
    assert few.token_ids == all_of_them.token_ids[:8]


@pytest.mark.parametrize("tokens", [0, 33, -1])
def test_an_impossible_budget_is_refused(himtok, examples, tokens):
    with pytest.raises(UserError, match=f"1 to 32 tokens, not {tokens}"):
        himtok.segment([Request(examples[0].image, ("it",), tokens=tokens)])


@torch.no_grad()
def test_soft_and_hard_decoding_of_the_same_codes(himtok, writing, examples):
    writing(himtok)
    soft = himtok.segment([Request(examples[0].image, ("it",))])[0]
    himtok.decode = "hard"
    hard = himtok.segment([Request(examples[0].image, ("it",))])[0]
    assert soft.token_ids == hard.token_ids
    expected = himtok.mask_tokenizer.decode(torch.tensor([hard.token_ids]))[0]
    torch.testing.assert_close(torch.from_numpy(hard.probabilities), expected, **CLOSE)
    assert np.abs(soft.probabilities - hard.probabilities).max() > 1e-3


def test_mask_and_box_are_one_question(himtok):
    both = himtok.instructions(Request(None, ("it",), ("mask", "box")))
    assert [want for want, _ in both] == [("mask", "box")]
    assert [want for want, _ in himtok.instructions(Request(None, ("it",)))] == [("mask",)]


def test_built_on_a_saved_tokenizer_the_mask_tokenizer_is_the_saved_one(build, backbone_folder, tmp_path):
    alone = build("himtok", backbone=None)
    alone.save_pretrained(tmp_path)
    method = method_class("himtok").build({"backbone": str(backbone_folder), "mask_tokenizer": str(tmp_path)}, tuple)
    ours, saved = method.mask_tokenizer.state_dict(), alone.mask_tokenizer.state_dict()
    assert all(torch.equal(ours[name], saved[name]) for name in saved)


def test_built_on_a_model_of_its_own_everything_is_that_model(build, tmp_path):
    first = build("himtok")
    first.save_pretrained(tmp_path)
    second = type(first).build({"start": str(tmp_path)}, tuple)
    ours, saved = second.state_dict(), first.state_dict()
    assert all(torch.equal(ours[name], saved[name]) for name in saved)


def test_a_model_can_go_on_with_another_mask_tokenizer_of_its_size(build, tmp_path):
    model, other = build("himtok"), build("himtok", backbone=None, seed=5)
    model.save_pretrained(tmp_path / "model")
    other.save_pretrained(tmp_path / "tokenizer")
    parts = {"start": str(tmp_path / "model"), "mask_tokenizer": str(tmp_path / "tokenizer")}
    ours, saved = type(model).build(parts, tuple).mask_tokenizer.state_dict(), other.mask_tokenizer.state_dict()
    assert all(torch.equal(ours[name], saved[name]) for name in saved)
    assert not all(torch.equal(ours[name], value) for name, value in model.mask_tokenizer.state_dict().items())
    small = build("himtok", backbone=None, mask_tokenizer_config=asdict(replace(other.mask_tokenizer.config, codes=8)))
    small.save_pretrained(tmp_path / "small")
    with pytest.raises(UserError, match="32 tokens of 8 codes"):
        type(model).build(parts | {"mask_tokenizer": str(tmp_path / "small")}, tuple)


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"hierachy": {}}, r"model: unknown field 'hierachy' .did you mean 'hierarchy'"),
        ({"hierarchy": {"levls": 1}}, "hierarchy: unknown field 'levls'"),
        ({"mask_tokenizer_config": {"encoder_layout": "x"}}, "encoder_layout is 'x', but must be one of"),
        ({"mask_tokenizer_config": {"code_space": "normalized"}}, "code_space is 'normalized'"),
        ({"mask_tokenizer_config": {"resolution": 64, "pixel_multipliers": [1, 1]}}, "make masks of 8 pixels, not 64"),
        ({"mask_resize": "nearest"}, "mask_resize is 'nearest'"),
    ],
)
def test_unknown_keys_are_refused(build, parts, named):
    with pytest.raises(UserError, match=named):
        build("himtok", **parts)


def test_a_started_model_takes_what_it_can_and_refuses_the_rest(build, tmp_path):
    first = build("himtok")
    first.save_pretrained(tmp_path)
    parts = {"start": str(tmp_path), "hierarchy": {"variant": "official"}, "mask_resize": "official"}
    second = type(first).build(parts, tuple)
    assert (second.hierarchy.variant, second.hierarchy.levels) == ("official", first.hierarchy.levels)
    assert second.mask_tokenizer.config.mask_resize == "official"
    with pytest.raises(UserError, match="model: init is for a new model, but"):
        type(first).build(parts | {"init": "codes"}, tuple)


def test_a_setting_of_the_restart_that_does_not_exist_is_refused(build):
    with pytest.raises(UserError, match="codebook_restart: unknown field 'warm' .did you mean 'warmup'"):
        build("himtok", backbone=None, codebook_restart={"warm": 3})


def test_the_released_mask_resize_takes_the_nearest_probability(himtok):
    soft = torch.rand(32, 32, generator=torch.Generator().manual_seed(0))
    masks = himtok.mask_tokenizer
    masks.config = replace(masks.config, mask_resize="official")
    found = himtok.mask_tokenizer.postprocess_mask(soft, (96, 64))
    np.testing.assert_array_equal(found, (soft > 0.5).numpy().repeat(3, 0).repeat(2, 1))
    masks.config = replace(masks.config, mask_resize="bilinear")
    assert not np.array_equal(himtok.mask_tokenizer.postprocess_mask(soft, (96, 64)), found)


def test_where_sentences_are_joined_the_released_wording_numbers_even_one(himtok):
    request = Request(None, ("the cat",), joined=True)
    assert himtok.instructions(request)[0][1] == "Segment <ref>the cat</ref>."
    himtok.processor.template = PromptTemplate("official")
    assert himtok.instructions(request)[0][1] == "Segment <ref>Meet all the descriptions: 1. the cat. </ref>."
    assert himtok.instructions(replace(request, joined=False))[0][1] == "Segment <ref>the cat</ref>."


def test_a_request_without_an_expression_is_refused(himtok):
    with pytest.raises(UserError, match="no expression"):
        himtok.instructions(Request(None, ()))
