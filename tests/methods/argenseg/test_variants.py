"""The variants: what a scale's tokens see, the order of writing, one scale, hidden states, 512 px, several masks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from methods.argenseg.config import SCALES_512, Variant
from methods.argenseg.layout import scale_mask, slot_places
from methods.argenseg.model import ARGenSeg
from methods.argenseg.schedule import HiddenMap, ScaleByScale, TokenByToken
from methods.base import DEFAULT, Request, UserError
from methods.internvl.chat import Turn
from methods.internvl.generation.engine import Decoder
from methods.internvl.prompts import with_image

CLOSE = dict(rtol=0, atol=1e-4)
CODEC = {"resolution": 32, "width": 32, "multipliers": [1, 1, 1, 1], "blocks": 1, "codes": 64}
SHORT, SINGLE = CODEC | {"scales": [1, 2, 3, 4]}, CODEC | {"scales": [4]}


def batch_of(method, examples):
    return method.processor.collate(
        [method.processor.prepare(e, "segment", np.random.default_rng(i)) for i, e in enumerate(examples)]
    )


def answers(method, examples, **form):
    method.processor.variant = replace(method.variant, **form)
    return method.segment([Request(example.image, example.expressions) for example in examples])


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["intra_scale", "order", "head", "prompt_template"])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    with pytest.raises(UserError, match=rf"no {name} 'other'; choose \w+ or \w+"):
        Variant(**{name: "other"})


def test_what_does_not_go_together_is_refused():
    with pytest.raises(UserError, match="cannot be written singly"):
        Variant(intra_scale="bidirectional", order="token")
    with pytest.raises(UserError, match="0 masks in an answer"):
        Variant(masks=0)


def test_the_form_travels_with_the_model(build, tmp_path):
    method = build("argenseg", mask_tokenizer_config=SHORT, variant={"intra_scale": "bidirectional", "masks": 3})
    method.save_pretrained(tmp_path)
    assert ARGenSeg.from_pretrained(tmp_path).variant == Variant(intra_scale="bidirectional", masks=3)
    build("argenseg", mask_tokenizer_config=SHORT).save_pretrained(tmp_path / "plain")
    again = ARGenSeg.build({"start": str(tmp_path / "plain"), "variant": {"order": "token"}}, tuple)
    assert again.variant == Variant(order="token")
    with pytest.raises(UserError, match="has the head 'tokens'; train another from scratch"):
        ARGenSeg.build({"start": str(tmp_path), "variant": {"head": "hidden"}}, tuple)


# ---- order, scales --------------------------------------------------------------------------------------------------


def test_token_order_writes_the_same_in_more_steps(argenseg, writing, examples):
    writing(argenseg)
    scale, token = (answers(argenseg, examples[:4], order=order) for order in ("scale", "token"))
    for first, second in zip(scale, token, strict=True):
        assert first.token_ids == second.token_ids
        np.testing.assert_allclose(first.probabilities, second.probabilities, atol=1e-4)
        assert second.steps - first.steps == 30 - 4
    assert isinstance(argenseg.block(None, DEFAULT).schedule(), TokenByToken)


@pytest.mark.parametrize("tokens", [1, 5, 14])
def test_budgets_in_token_order(argenseg, writing, examples, tokens):
    writing(argenseg)
    argenseg.processor.variant = Variant(order="token")
    found = argenseg.segment([Request(examples[0].image, ("it",), tokens=tokens)])[0]
    assert len(found.token_ids) == tokens


def test_a_single_scale_is_written_token_by_token_after_the_code_before(build, writing, examples):
    method = writing(build("argenseg", mask_tokenizer_config=SINGLE))
    assert (method.mask_tokenizer.length, method.mask_tokenizer.prefixes) == (16, (16,))
    found = answers(method, examples[:1])[0]
    ids = torch.tensor([found.token_ids])
    codes = method.mask_tokenizer.quantize.embedding.weight
    forced = method.mask_tokenizer.quantize.teacher_forcing(ids)
    assert torch.equal(forced, codes[ids[:, :-1]])
    asked = method.instructions(Request(None, examples[0].expressions))[0][1]
    logits = forced_logits(method, examples[0], prompt_of(method, asked), ids)
    assert logits.argmax(-1).tolist() == [list(found.token_ids)]
    multi = answers(writing(build("argenseg", mask_tokenizer_config=SHORT)), examples[:1])[0]
    assert found.steps - multi.steps == 16 - 4
    losses = method.loss(batch_of(method, examples[:2]))
    assert losses.keys() == {"text", "visual"}


def prompt_of(method, text: str) -> list[int]:
    return method.processor.chat.encode(
        [Turn("user", with_image(text, method.processor.config.image_first))], 1, reply=True
    )[0]


def forced_logits(method, example, prompt, ids):
    """Logits [1, T, V] of the slots in one pass over prompt, `:`, and the mask of the given ids."""
    pixels = torch.from_numpy(method.processor._tiles(example)[1])
    tokens = torch.tensor([[*prompt, *method.processor.tokenizer.encode(":"), *method.processor.mask_block]])
    rows, columns = slot_places(tokens, method.processor.start_id, method.slots)
    with torch.no_grad():
        inputs = method.slot_inputs(method.mask_tokenizer.quantize.teacher_forcing(ids), 1)
        embeddings = method.backbone.embed(tokens).index_put((rows, columns[:, 1:]), inputs)
        image = method.backbone.project(method.backbone.patches(pixels)).flatten(0, 1)
        embeddings = method.backbone.place_images(embeddings, tokens, image)
        mask = None
        if method.variant.intra_scale == "bidirectional":
            mask = scale_mask(tokens, rows, columns, method.level_of_slot)
        hidden = method.backbone.run(embeddings, mask)
        return method.backbone.head(
            hidden[rows, columns],
            method.processor.mask_token_offset,
            method.processor.mask_token_offset + method.visual_rows,
        )


def test_at_512_pixels_a_mask_has_2240_tokens(build, writing, examples):
    tokenizer = {"resolution": 64, "width": 32, "multipliers": [1, 1], "blocks": 1, "codes": 64, "scales": SCALES_512}
    method = writing(build("argenseg", mask_tokenizer_config=tokenizer | {"scales": list(SCALES_512)}))
    assert (method.mask_tokenizer.length, method.slots, len(method.mask_tokenizer.prefixes)) == (2240, 2240, 10)
    found = answers(method, examples[:1])[0]
    assert len(found.token_ids) == 2240
    assert found.probabilities.shape == (64, 64)


# ---- what a scale's tokens see --------------------------------------------------------------------------------------


def test_the_mask_of_full_scales_by_hand():
    """Two masks of scales 1 and 2 x 2 in one row: text is causal, a scale sees itself, masks see no later mask."""
    ids = torch.tensor([[5, 9, 0, 0, 0, 0, 8, 9, 0, 0, 0, 0, 8]])
    rows, columns = slot_places(ids, 9, 5)
    seen = scale_mask(ids, rows, columns, torch.tensor([0, 1, 1, 1, 1]))[0, 0]
    expected = torch.ones(13, 13, dtype=torch.bool).tril()
    expected[2:6, 2:6] = True
    expected[8:12, 8:12] = True
    assert torch.equal(seen, expected)


def test_full_scales_in_steps_equal_one_pass_with_their_mask(build, writing, examples):
    method = writing(build("argenseg", mask_tokenizer_config=SHORT, variant={"intra_scale": "bidirectional"}))
    found = answers(method, examples[:3])  # of different images and prompt lengths, hence padded on the left
    for example, prediction in zip(examples[:3], found, strict=True):
        asked = method.instructions(Request(None, example.expressions))[0][1]
        logits = forced_logits(method, example, prompt_of(method, asked), torch.tensor([prediction.token_ids]))
        assert logits.argmax(-1).tolist() == [list(prediction.token_ids)]


@torch.no_grad()
def test_a_late_token_of_a_scale_reaches_an_early_one_only_in_full_scales(build, examples):
    method = build("argenseg", mask_tokenizer_config=SHORT)
    ids = torch.randint(64, (1, 30), generator=torch.Generator().manual_seed(0))
    changed = {}
    inputs = method.slot_inputs
    for form in ("causal", "bidirectional"):
        method.processor.variant = Variant(intra_scale=form)
        prompt = prompt_of(method, "it")
        before = forced_logits(method, examples[0], prompt, ids)
        method.slot_inputs = lambda cells, start: inputs(cells, start) + F.one_hot(torch.tensor(28), 29)[:, None]
        changed[form] = (forced_logits(method, examples[0], prompt, ids) != before).any(-1)[0]
        method.slot_inputs = inputs
    assert changed["causal"].tolist() == [False] * 29 + [True]
    assert changed["bidirectional"].tolist() == [False] * 14 + [True] * 16  # its own scale, the last


def test_the_two_ways_of_seeing_train_differently(argenseg, examples):
    losses = {}
    for form in ("causal", "bidirectional"):
        argenseg.processor.variant = Variant(intra_scale=form)
        losses[form] = argenseg.loss(batch_of(argenseg, examples[:2]))
    assert abs(losses["causal"]["visual"] - losses["bidirectional"]["visual"]) > 1e-3


# ---- hidden states --------------------------------------------------------------------------------------------------


@pytest.fixture
def hidden(build):
    return build("argenseg", mask_tokenizer_config=SHORT, variant={"head": "hidden"})


def test_hidden_states_are_read_out_by_rows_of_the_head(hidden, examples):
    assert (hidden.slots, hidden.visual_rows) == (16, 32)
    assert hidden.backbone.vocabulary == hidden.processor.mask_token_offset + 32
    batch = batch_of(hidden, examples[:2])
    hidden.enter_stage("joint")
    losses = hidden.loss(batch)
    assert losses.keys() == {"text", "bce", "dice"}
    assert int((batch["labels"] >= hidden.processor.mask_token_offset).sum()) == 0
    (losses["bce"] + losses["dice"]).backward()
    gradient = hidden.backbone.native.lm_head.weight.grad
    assert (gradient[hidden.processor.mask_token_offset :].abs().sum(-1) > 0).all()
    assert gradient[: hidden.processor.mask_token_offset].abs().sum() == 0
    assert hidden.mask_tokenizer.decoder.conv_out.weight.grad is None
    assert (hidden.pos_1LC.grad[0, 1:].abs().sum(-1) > 0).all()


@torch.no_grad()
def test_the_losses_of_a_drawn_map_by_hand(hidden):
    masks = torch.rand(2, 1, 32, 32).round()
    features = torch.randn(2, 32, 4, 4)
    losses = hidden.map_losses(features, masks)
    p = (4 * hidden.mask_tokenizer.decode_features(features).mean(1)).sigmoid()
    truth = masks[:, 0]
    bce = -(truth * p.log() + (1 - truth) * (1 - p).log()).mean()
    dice = 1 - (2 * (p * truth).sum((1, 2)) + 1) / (p.sum((1, 2)) + truth.sum((1, 2)) + 1)
    torch.testing.assert_close(losses["bce"], bce, **CLOSE)
    torch.testing.assert_close(losses["dice"], dice.mean(), **CLOSE)


def test_a_hidden_mask_is_one_step_and_no_tokens(hidden, writing, examples):
    writing(hidden)
    found = answers(hidden, examples[:2])
    assert isinstance(hidden.block(None, DEFAULT).schedule(), HiddenMap)
    for prediction in found:
        assert (prediction.token_ids, prediction.failure, prediction.text) == ((), None, ":<mask>.")
        assert prediction.probabilities.shape == (32, 32)
    alone = answers(hidden, examples[1:2])[0]
    np.testing.assert_allclose(found[1].probabilities, alone.probabilities, atol=1e-4)
    assert len({p.probabilities.tobytes() for p in found}) == 2


@torch.no_grad()
def test_hidden_states_while_answering_are_those_of_training(hidden, writing, examples):
    writing(hidden)
    found = answers(hidden, examples[:1])[0]
    asked = hidden.instructions(Request(None, examples[0].expressions))[0][1]
    hidden.mask_tokenizer.quantize.teacher_forcing = lambda ids: torch.zeros(1, 15, 32)
    logits = forced_logits(hidden, examples[0], prompt_of(hidden, asked), None)
    drawn = hidden.mask_tokenizer.grey(hidden.feature_map(logits))[0]
    torch.testing.assert_close(torch.from_numpy(found.probabilities), drawn, **CLOSE)


def test_a_hidden_model_travels(hidden, tmp_path):
    hidden.save_pretrained(tmp_path)
    assert ARGenSeg.from_pretrained(tmp_path).slots == 16


@pytest.mark.parametrize("init", ["zeros", "var", "grid"])
def test_read_out_rows_start_apart(backbone_folder, init):
    parts = {
        "backbone": str(backbone_folder),
        "mask_tokenizer_config": SHORT,
        "variant": {"head": "hidden"},
        "init": init,
    }
    method = ARGenSeg.build(parts, tuple)
    rows = method.backbone.native.lm_head.weight[method.processor.mask_token_offset :]
    assert torch.linalg.matrix_rank(rows) == 32


# ---- several masks, positions ---------------------------------------------------------------------------------------


def test_a_prediction_is_the_union_of_the_answers_masks(argenseg, script, examples):
    script(
        argenseg, {"\n": argenseg.processor.start_id, argenseg.processor.end_id: ":", ":": argenseg.processor.start_id}
    )
    one, two = (answers(argenseg, examples[:1], masks=n)[0] for n in (1, 2))
    assert two.text.startswith("<mask>:<mask>:")
    assert len(two.token_ids) == 60
    assert two.token_ids[:30] == one.token_ids
    assert two.token_ids[30:] != one.token_ids
    blocks = torch.tensor(two.token_ids).view(2, 30)
    with torch.no_grad():
        drawn = argenseg.mask_tokenizer.decode(blocks)
    np.testing.assert_allclose(two.probabilities, drawn.amax(0), atol=1e-4)


@pytest.mark.parametrize("masks", [0, 1, 2])
def test_keys_and_positions_after_masks_and_text(argenseg, masks):
    """After m masks and t text tokens a row stands at N + m (n + 1) + t, and holds as many keys."""
    prompts = [[7] * 5, [7] * 9]
    embeddings, valid = argenseg._left_padded(prompts, [torch.zeros(0, 64)])
    with torch.no_grad():
        state = Decoder(argenseg.backbone, embeddings, valid)
        everyone = torch.tensor([True, True])
        for _ in range(masks):
            state.write(ScaleByScale(argenseg, 4), everyone)
        state.feed(argenseg.backbone.embed(torch.tensor([[3], [4]])), everyone)
    added = masks * (30 + 1) + 1
    assert state.position.tolist() == [5 + added, 9 + added]
    assert state.mask.sum(1).tolist() == [5 + added, 9 + added]
    assert state.mask.shape[1] == 9 + added


def test_only_visual_ids_are_looked_at_and_the_end_is_forced(argenseg, writing, examples):
    """Even where the head prefers the end token and text everywhere."""
    writing(argenseg)
    with torch.no_grad():
        argenseg.backbone.native.lm_head.weight[argenseg.processor.mask_token_offset :] *= 1e-6
    schedule = argenseg.block(None, DEFAULT).schedule()
    assert schedule.vocabulary == (argenseg.processor.mask_token_offset, argenseg.processor.mask_token_offset + 64)
    found = answers(argenseg, examples[:1])[0]
    assert all(0 <= number < 64 for number in found.token_ids)
    schedule.features = torch.zeros(3, 1)
    assert schedule.tail().tolist() == [[argenseg.processor.end_id]] * 3
