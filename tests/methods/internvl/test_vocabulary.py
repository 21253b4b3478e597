"""The small tokenizer: lossless, deterministic, and the same after a round trip through a folder."""

import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.base import UserError
from methods.internvl.vocabulary import SPECIALS, add_tokens, load_tokenizer, token_id, train_tokenizer

CORPUS = ["the red car on the left.", "[[12, 345, 678, 999]]", "a dog's bone , isn't it ?"] * 3
TOKENIZER = train_tokenizer(CORPUS, 320)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_comes_back_composed(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False)) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("text", [" a .", "it 's", "a  b", "\n\n x\t", "do n't", "é", "e\u0301", "<box>[[1, 2]]</box>"])
def test_blanks_and_punctuation_come_back(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == unicodedata.normalize("NFC", text)


def test_digits_stand_alone():
    """Coordinates are learned digit by digit, as Qwen2 splits them."""
    pieces = [TOKENIZER.decode([token]) for token in TOKENIZER.encode("[[12, 345, 678, 999]]")]
    assert [piece.strip() for piece in pieces if any(map(str.isdigit, piece))] == list("12345678999")


def test_training_is_deterministic_and_depends_on_the_corpus():
    def content(tokenizer):
        return tokenizer.backend_tokenizer.to_str()

    assert content(train_tokenizer(iter(CORPUS), 320)) == content(TOKENIZER)
    assert content(train_tokenizer(["quite other words here"] * 3, 320)) != content(TOKENIZER)


def test_the_size_counts_without_the_specials():
    assert len(train_tokenizer(CORPUS, 270)) == 270 + len(SPECIALS)
    assert len(TOKENIZER) <= 320 + len(SPECIALS)


def test_specials_are_single_tokens_even_inside_words():
    for special in SPECIALS:
        ids = TOKENIZER.encode(f"car{special}car", add_special_tokens=False)
        assert ids.count(token_id(TOKENIZER, special)) == 1


def test_adding_tokens_appends_in_order_and_never_twice():
    tokenizer = train_tokenizer(CORPUS, 300)
    before = len(tokenizer)
    add_tokens(tokenizer, ["<a>", "<b>", "<img>"])
    add_tokens(tokenizer, ["<b>", "<a>", "<c>"])
    assert [token_id(tokenizer, token) for token in ("<a>", "<b>", "<c>")] == [before, before + 1, before + 2]
    assert len(tokenizer) == before + 3


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=8))
def test_a_saved_tokenizer_gives_the_same_ids(tmp_path_factory, texts):
    folder = tmp_path_factory.getbasetemp() / "tokenizer"
    if not folder.exists():
        add_tokens(TOKENIZER, ["<|mt_start|>"])
        TOKENIZER.save_pretrained(folder)
    loaded = load_tokenizer(folder)
    for text in [*texts, *CORPUS, "<img> <|mt_start|> <|im_end|>"]:
        assert loaded.encode(text, add_special_tokens=False) == TOKENIZER.encode(text, add_special_tokens=False)
    assert len(loaded) == len(TOKENIZER)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path.name}: no usable tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="none: no usable tokenizer"):
        load_tokenizer(tmp_path / "none")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", json.dumps({"model": 3})])
def test_a_damaged_tokenizer_is_named(tmp_path, content):
    TOKENIZER.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=f"{tmp_path.name}: no usable tokenizer") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_unknown_token_is_named():
    with pytest.raises(UserError, match="'<nope>'"):
        token_id(TOKENIZER, "<nope>")
