"""Decoding step by step equals one teacher-forced pass, for any mixture of rows and steps."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from methods.base import DEFAULT, Request
from methods.internvl.generation.engine import Block, Decoder, decode
from methods.internvl.generation.timing import Clock

CLOSE = dict(rtol=0, atol=1e-4)
ASKED = Request(Image.new("RGB", (8, 8)), ("the car",))


@pytest.fixture(scope="module")
def backbone(build):
    return build("boxes").backbone


def embeddings(backbone, length: int, seed: int) -> torch.Tensor:
    ids = torch.randint(backbone.vocabulary, (1, length), generator=torch.Generator().manual_seed(seed))
    return backbone.embed(ids)


def left_padded(prompts: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(prompt.shape[1] for prompt in prompts)
    padded = [torch.nn.functional.pad(p, (0, 0, length - p.shape[1], 0), value=7.0) for p in prompts]
    valid = [torch.arange(length) >= length - p.shape[1] for p in prompts]
    return torch.cat(padded), torch.stack(valid)


steps = st.lists(st.tuples(st.integers(1, 5), st.tuples(*[st.booleans()] * 3)), max_size=5)


@settings(max_examples=30, deadline=None)
@given(lengths=st.tuples(*[st.integers(1, 9)] * 3), steps=steps)
@torch.no_grad()
def test_rows_that_pause_see_only_their_own_tokens(backbone, lengths, steps):
    """Whatever is fed to which rows, each row's states are those of one plain pass over what was fed to it."""
    own = [embeddings(backbone, length, row) for row, length in enumerate(lengths)]
    state = Decoder(backbone, *left_padded(own))
    seen = [[state.hidden[row]] for row in range(3)]
    for number, (count, active) in enumerate(steps):
        fed = torch.cat([embeddings(backbone, count, 100 + 10 * number + row) for row in range(3)])
        hidden = state.feed(fed, torch.tensor(active))
        for row in range(3):
            if active[row]:
                own[row] = torch.cat([own[row], fed[row : row + 1]], 1)
                seen[row] += list(hidden[row])
            torch.testing.assert_close(state.hidden[row], seen[row][-1], rtol=0, atol=0)
    assert state.passes == 1 + len(steps)
    for row in range(3):
        whole = backbone.run(own[row])[0]
        torch.testing.assert_close(torch.stack(seen[row]), whole[lengths[row] - 1 :], **CLOSE)
        assert int(state.position[row]) == own[row].shape[1]


class Recorder:
    """A schedule that keeps the logits of every step."""

    unfinished = corrections = None

    def __init__(self, schedule, kept: list):
        self.schedule, self.kept = schedule, kept
        self.vocabulary = schedule.vocabulary
        self.first, self.tail = schedule.first, schedule.tail
        self.ids, self.probabilities = schedule.ids, schedule.probabilities

    def next(self, logits):
        self.kept.append(logits)
        return self.schedule.next(logits)


def answer_with_logits(method, prompt: torch.Tensor, tokens: int | None = None):
    """One prompt's answer and the logits [T, V] of its mask tokens."""
    block, kept = method.block(tokens, DEFAULT), []
    block = Block(block.start_id, lambda: Recorder(method.block(tokens, DEFAULT).schedule(), kept), block.most)
    valid = torch.ones(prompt.shape[:2], dtype=torch.bool)
    answer = decode(method.backbone, prompt, valid, method.processor.chat.stop_id, block, method.text_rows)[0]
    return answer, torch.cat(kept, 1)[0]


@torch.no_grad()
@pytest.mark.parametrize("tokens", [32, 1, 5])
def test_himtok_step_by_step_equals_one_pass(himtok, writing, tokens):
    writing(himtok)
    prompt = himtok.backbone.embed(torch.tensor([himtok.processor.prompt("the red car", 1)]))
    answer, logits = answer_with_logits(himtok, prompt, tokens)
    codes = [himtok.processor.mask_token_offset + code for code in answer.mask_ids[0]]
    assert len(codes) == tokens
    fed = himtok.backbone.embed(
        torch.tensor(
            [himtok.processor.tokenizer.encode(":") + [himtok.processor.start_id, *codes, himtok.processor.end_id]]
        )
    )
    hidden = himtok.backbone.run(torch.cat([prompt, fed], 1))
    start = prompt.shape[1] + 1
    whole = himtok.backbone.head(
        hidden[0, start : start + tokens],
        himtok.processor.mask_token_offset,
        himtok.processor.mask_token_offset + himtok.mask_tokenizer.size,
    )
    torch.testing.assert_close(logits, whole, **CLOSE)
    assert whole.argmax(-1).tolist() == answer.mask_ids[0]
    assert len(set(answer.mask_ids[0])) > min(tokens, 5) // 2  # the states do differ from step to step


@torch.no_grad()
@pytest.mark.parametrize("tokenizer", ["short", "whole"])
def test_argenseg_scale_by_scale_equals_token_by_token_equals_one_pass(build, writing, tokenizer):
    method = writing(build("argenseg", **({"mask_tokenizer_config": "short"} if tokenizer == "short" else {})))
    prompt = method.backbone.embed(torch.tensor([method.processor.prompt("the red car", 1)]))
    answer, logits = answer_with_logits(method, prompt)
    ids = torch.tensor(answer.mask_ids)
    assert ids.shape == (1, method.mask_tokenizer.length)
    slots = method.slot_inputs(method.mask_tokenizer.quantize.teacher_forcing(ids), 1)
    colon = method.processor.tokenizer.encode(":")
    begin = torch.cat([prompt, method.backbone.embed(torch.tensor([[*colon, method.processor.start_id]]))], 1)
    rows = method.processor.mask_token_offset, method.processor.mask_token_offset + method.mask_tokenizer.size
    whole = method.backbone.run(torch.cat([begin, slots], 1))[0, begin.shape[1] - 1 :]
    torch.testing.assert_close(logits, method.backbone.head(whole, *rows), **CLOSE)
    assert logits.argmax(-1).tolist() == answer.mask_ids[0]
    if tokenizer == "short":
        state = Decoder(method.backbone, begin, torch.ones(begin.shape[:2], dtype=torch.bool))
        single = [state.hidden] + [state.feed(slots[:, i : i + 1], torch.tensor([True]))[:, 0] for i in range(29)]
        torch.testing.assert_close(torch.cat(single), whole, **CLOSE)


def test_the_tail_of_a_block_is_read_before_the_text_goes_on(writer, script):
    """What follows a mask depends on the whole block: a plain pass over the same sequence gives the same text."""
    script(writer, {"\n": writer.processor.start_id})
    ids = writer.processor.prompt("the red car", 1)
    prompt = writer.backbone.embed(torch.tensor([ids]))
    answer, _ = answer_with_logits(writer, prompt)
    assert answer.text_ids[0] == -1
    schedule = writer.block(None, DEFAULT).schedule()
    fed = [prompt, schedule.first(1)]
    codes = torch.tensor(answer.mask_ids)
    if writer.name == "himtok":
        fed.append(writer.backbone.embed(writer.processor.mask_token_offset + codes))
    else:
        fed.append(writer.slot_inputs(writer.mask_tokenizer.quantize.teacher_forcing(codes), 1))
    text = [writer.processor.end_id, *answer.text_ids[1:]]
    fed.append(writer.backbone.embed(torch.tensor([text])))
    with torch.no_grad():
        hidden = writer.backbone.run(torch.cat(fed, 1))[0, -len(text) :]
        logits = writer.backbone.head(hidden, 0, writer.text_rows)
    logits[:, writer.processor.start_id] = -torch.inf
    expected = [*answer.text_ids[1:], writer.processor.chat.stop_id] if answer.finished else answer.text_ids[1:]
    assert logits.argmax(-1).tolist()[: len(expected)] == expected


# ---- rows of one batch that behave differently ------------------------------------------------------------------


@pytest.fixture
def chained(writer, script):
    """A model whose text depends on the prompt's last token, and prompts of different lengths for it.

    a: mask at once; b: text, mask, text; c: text without a mask; d: text that never ends; e: ends at once.
    """
    stop, start, end = "<|im_end|>", writer.processor.start_id, writer.processor.end_id
    script(
        writer,
        {"a": start, "b": "1", "1": "2", "2": start, end: ".", ".": stop,
         "c": "3", "3": "4", "4": stop, "d": "d", "e": stop},
    )  # fmt: skip
    words = ["the red car a", "b", "on the left of it there is one c", "d", "it e", "another one a"]
    ids = [writer.processor.tokenizer.encode(text[:-1]) + writer.processor.tokenizer.encode(text[-1]) for text in words]
    prompts = [writer.backbone.embed(torch.tensor([row])) for row in ids]
    return SimpleNamespace(method=writer, prompts=prompts)


def answers_of(method, prompts, most_text=20, tokens=None):
    inputs, valid = left_padded(prompts)
    return decode(
        method.backbone,
        inputs,
        valid,
        method.processor.chat.stop_id,
        method.block(tokens, DEFAULT),
        method.text_rows,
        most_text,
    )


@torch.no_grad()
def test_rows_write_what_their_prompt_asks_for(chained):
    found = answers_of(chained.method, chained.prompts)
    texts = [chained.method.processor.answer_text(answer.text_ids) for answer in found]
    assert texts == ["<mask>.", "12<mask>.", "34", "d" * 20, "", "<mask>."]
    assert [answer.finished for answer in found] == [True, True, True, False, True, True]
    assert [len(answer.masks) for answer in found] == [1, 1, 0, 0, 0, 1]


@torch.no_grad()
def test_a_batch_gives_what_each_row_gives_alone(chained):
    together = answers_of(chained.method, chained.prompts)
    for answer, prompt in zip(together, chained.prompts, strict=True):
        alone = answers_of(chained.method, [prompt])[0]
        assert answer.text_ids == alone.text_ids
        assert answer.mask_ids == alone.mask_ids
        assert answer.finished == alone.finished
        for mask, other in zip(answer.masks, alone.masks, strict=True):
            torch.testing.assert_close(mask, other, **CLOSE)
    first, last = together[0], together[-1]
    assert first.mask_ids != last.mask_ids  # masks depend on the prompt, so the comparison means something


@torch.no_grad()
def test_mask_ids_come_from_the_mask_vocabulary_and_text_from_the_text(chained):
    method = chained.method
    for answer in answers_of(method, chained.prompts):
        assert all(0 <= code < method.mask_tokenizer.size for block in answer.mask_ids for code in block)
        assert all(token == -1 or token < method.text_rows for token in answer.text_ids)
        assert method.processor.start_id not in answer.text_ids


@torch.no_grad()
def test_text_never_takes_a_mask_token_even_if_its_row_is_the_best(chained):
    method = chained.method
    with torch.no_grad():
        head = method.backbone.native.lm_head.weight
        head[method.processor.mask_token_offset :] = 1000 * head[: method.processor.mask_token_offset].mean(0).sign()
    for answer in answers_of(method, chained.prompts):
        assert all(token < method.text_rows for token in answer.text_ids)


@torch.no_grad()
@pytest.mark.parametrize("most", [1, 2, 7])
def test_the_limit_on_text_cuts_and_says_so(chained, most):
    found = answers_of(chained.method, chained.prompts[3:4], most_text=most)[0]
    assert chained.method.processor.answer_text(found.text_ids) == "d" * most
    assert not found.finished


@torch.no_grad()
def test_a_second_mask_is_not_begun(chained, script):
    method = chained.method
    script(method, {"a": method.processor.start_id, method.processor.end_id: method.processor.start_id})
    answer = answers_of(method, chained.prompts[:1], most_text=3)[0]
    assert len(answer.masks) == 1
    assert method.processor.start_id not in answer.text_ids


@torch.no_grad()
def test_two_masks_where_two_are_allowed(chained, script):
    """The second block starts after the text between them and is written with its own schedule."""
    method = chained.method
    stop = "<|im_end|>"
    script(method, {"a": method.processor.start_id, method.processor.end_id: "2", "2": method.processor.start_id})
    block = method.block(None, DEFAULT)
    inputs, valid = left_padded(chained.prompts[:1])
    args = method.backbone, inputs, valid, method.processor.chat.stop_id
    answer = decode(*args, Block(block.start_id, block.schedule, most=2), method.text_rows, 6)[0]
    assert len(answer.masks) == len(answer.mask_ids) == 2
    assert answer.text_ids[:4] == [
        -1,
        *method.processor.tokenizer.encode("2"),
        -1,
        *method.processor.tokenizer.encode("2"),
    ]
    assert answer.mask_ids[0] != answer.mask_ids[1]
    assert stop not in method.processor.answer_text(answer.text_ids)


@torch.no_grad()
def test_without_a_block_the_model_only_writes_text(build, script):
    method = script(build("boxes"), {"\n": "a", "a": "<|im_end|>"})
    prompt = method.backbone.embed(torch.tensor([method.processor.prompt("the car", 1)]))
    args = method.backbone, prompt, torch.ones(prompt.shape[:2], dtype=torch.bool), method.processor.chat.stop_id
    answer = decode(*args, None, method.text_rows)[0]
    assert method.processor.answer_text(answer.text_ids) == "a"
    assert answer.steps == 2  # the prompt, and "a"


def test_the_clock_adds_up_stages():
    clock = Clock()
    for _ in range(2):
        with clock.stage("a"):
            pass
    with clock.stage("b"):
        sum(range(1000))
    assert set(clock.seconds) == {"a", "b"}
    assert all(value > 0 for value in clock.seconds.values())
