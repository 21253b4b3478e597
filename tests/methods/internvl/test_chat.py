"""The conversation format: what stands where, and which tokens are learned."""

import unicodedata
from copy import deepcopy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from methods.internvl.chat import IGNORED, Chat, Turn
from methods.internvl.vocabulary import train_tokenizer

END, START = "<|im_end|>", "<|im_start|>"
TOKENIZER = train_tokenizer(["the red car", "a mask of the red car.", "where is it?"] * 3, 300)
CHAT = Chat(TOKENIZER, tokens_per_tile=3)
words = st.lists(st.sampled_from("the red car is, there? é 世 ☃ 12".split()), min_size=1, max_size=6).map(" ".join)


def text(ids) -> str:
    return TOKENIZER.decode(ids)


def learned(ids, labels) -> str:
    """The learned tokens as text; labels must repeat the ids wherever they are set."""
    assert len(ids) == len(labels)
    assert all(label in (token, IGNORED) for token, label in zip(ids, labels, strict=True))
    return text([label for label in labels if label != IGNORED])


def test_a_conversation_reads_as_internvl_writes_it():
    ids, _ = CHAT.encode([Turn("user", "<image>\nwhere is it?"), Turn("assistant", "there")])
    expected = f"{START}user\n<img>{'<IMG_CONTEXT>' * 3}</img>\nwhere is it?{END}\n{START}assistant\nthere{END}\n"
    assert text(ids) == expected


def test_the_system_sentence_stands_first_and_is_not_learned():
    turns = [Turn("user", "where?"), Turn("assistant", "there")]
    chat = Chat(TOKENIZER, 3, system="be brief")
    ids, labels = chat.encode(turns)
    assert text(ids) == f"{START}system\nbe brief{END}\n" + text(CHAT.encode(turns)[0])
    assert learned(ids, labels) == f"there{END}"


def test_a_tokenizer_with_a_begin_of_text_has_it_in_front_once():
    """As InternLM2.5's tokenizer does."""
    tokenizer = deepcopy(TOKENIZER)
    begin = tokenizer.convert_tokens_to_ids("<ref>")
    template = TemplateProcessing(single="<ref> $A", special_tokens=[("<ref>", begin)])
    tokenizer.backend_tokenizer.post_processor = template
    turns = [Turn("user", "where?"), Turn("assistant", "there")]
    ids, labels = Chat(tokenizer, 3, system="be brief").encode(turns)
    plain = Chat(TOKENIZER, 3, system="be brief").encode(turns)
    assert (ids, labels) == ([begin, *plain[0]], [IGNORED, *plain[1]])


@settings(max_examples=60, deadline=None)
@given(words, words)
def test_the_answer_and_its_end_are_learned_and_nothing_else(question, answer):
    ids, labels = CHAT.encode([Turn("user", question), Turn("assistant", answer)])
    assert learned(ids, labels) == unicodedata.normalize("NFC", answer) + END
    assert labels[-1] == IGNORED  # the newline after the end
    assert text(ids[-1:]) == "\n"


def test_every_answer_of_several_turns_is_learned():
    turns = [Turn("user", "the car?"), Turn("assistant", "red"), Turn("user", "where?"), Turn("assistant", "there")]
    ids, labels = CHAT.encode(turns)
    assert learned(ids, labels) == f"red{END}there{END}"
    first, _ = CHAT.encode(turns[:2])
    assert ids[: len(first)] == first


def test_a_prompt_for_a_reply_is_the_beginning_of_the_whole_conversation():
    question, answer = Turn("user", "<image>\nwhere is it?"), Turn("assistant", "there")
    prompt, labels = CHAT.encode([question], tiles=2, reply=True)
    whole, _ = CHAT.encode([question, answer], tiles=2)
    assert whole[: len(prompt)] == prompt
    assert text(prompt).endswith(f"{START}assistant\n")
    assert set(labels) == {IGNORED}


@pytest.mark.parametrize("tiles", [1, 2, 13])
def test_an_image_takes_its_tokens_for_every_tile(tiles):
    ids, _ = CHAT.encode([Turn("user", "it\n<image>")], tiles=tiles)
    assert ids.count(CHAT.image_id) == 3 * tiles
    first = ids.index(CHAT.image_id)
    assert text(ids[first - 1 : first]) == "<img>"
    assert text(ids[first + 3 * tiles : first + 3 * tiles + 1]) == "</img>"


def test_a_mask_in_an_answer_is_learned_and_in_a_question_is_not():
    block = [7, 8, 9]
    ids, labels = CHAT.encode([Turn("user", "the <mask>?"), Turn("assistant", "a <mask>.")], mask_block=block)
    places = [i for i in range(len(ids)) if ids[i : i + 3] == block]
    assert len(places) == 2
    assert labels[places[0] : places[0] + 3] == [IGNORED] * 3
    assert labels[places[1] : places[1] + 3] == block


def test_several_masks_in_one_answer():
    ids, _ = CHAT.encode([Turn("assistant", "a <mask> and <mask>.")], mask_block=[7, 8])
    assert sum(ids[i : i + 2] == [7, 8] for i in range(len(ids))) == 2


def test_an_empty_answer_is_just_its_end():
    ids, labels = CHAT.encode([Turn("user", "where?"), Turn("assistant", "")])
    assert learned(ids, labels) == END


def test_the_stop_token_ends_a_turn():
    ids, _ = CHAT.encode([Turn("user", "where?")])
    assert text([CHAT.stop_id]) == END
    assert ids[-2] == CHAT.stop_id
