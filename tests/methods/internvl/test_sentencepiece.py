"""A fast tokenizer from tokenizer.model: the ids are those of the sentencepiece library.

goldens/internvl/sentencepiece: two small byte-fallback BPEs and the library's ids for some texts.
"""

import json
import shutil
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.base import UserError
from methods.internvl.vocabulary import add_tokens, load_tokenizer, token_id


@pytest.fixture(params=["plain", "prefixed"])
def folder(request, goldens, tmp_path):
    shutil.copy(goldens / "internvl" / "sentencepiece" / request.param / "tokenizer.model", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["plain", "prefixed"])
def test_ids_are_the_librarys(goldens, name):
    place = goldens / "internvl" / "sentencepiece" / name
    tokenizer = load_tokenizer(place)
    for text, ids in json.loads((place / "ids.json").read_text(encoding="utf-8")).items():
        assert tokenizer.encode(text, add_special_tokens=False) == ids, text
        assert tokenizer.decode(ids) == text


@pytest.fixture(scope="module")
def plain(goldens):
    return load_tokenizer(goldens / "internvl" / "sentencepiece" / "plain")


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30))
def test_any_text_comes_back(plain, text):
    if not any(special in text for special in plain.get_added_vocab()) and "\u2581" not in text:
        assert plain.decode(plain.encode(text, add_special_tokens=False)) == text


def give_settings(folder, **more):
    last = {"content": "<img>", "special": True}
    decoder = {"3": {"content": "<|im_end|>"}, "4": {"content": "<|im_start|>"}, "420": last}
    settings = {"added_tokens_decoder": decoder, "bos_token": {"content": "<s>"}, "eos_token": "</s>"} | more
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def test_the_released_settings_list_the_unknown_piece_too(folder):
    give_settings(folder, added_tokens_decoder={"0": {"content": "<unk>"}, "3": {"content": "<|im_end|>"}})
    tokenizer = load_tokenizer(folder)
    assert (token_id(tokenizer, "<unk>"), token_id(tokenizer, "<|im_end|>")) == (0, 3)
    assert tokenizer.decode(tokenizer.encode("a red car", add_special_tokens=False)) == "a red car"


def test_unused_pieces_get_their_names_and_further_tokens_follow(folder):
    give_settings(folder)
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode("car<|im_end|>car<img>", add_special_tokens=False)
    assert (ids.count(3), ids[-1], len(tokenizer)) == (1, 420, 421)
    assert token_id(tokenizer, "<|im_start|>") == 4
    assert tokenizer.encode("")[0] == token_id(tokenizer, "<s>")
    assert tokenizer.eos_token == "</s>"


def test_no_token_in_front_where_the_settings_say_so(folder):
    give_settings(folder, add_bos_token=False)
    assert load_tokenizer(folder).encode("") == []


def test_it_is_saved_and_extended_like_any_other(folder, tmp_path):
    give_settings(folder)
    tokenizer = load_tokenizer(folder)
    add_tokens(tokenizer, ["<|mt_start|>"])
    tokenizer.save_pretrained(tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    text = "the red car<img><|mt_start|>x"
    assert again.encode(text) == tokenizer.encode(text)
    assert token_id(again, "<|mt_start|>") == 421


@pytest.mark.parametrize("spoil", [lambda d: d[: len(d) // 2], lambda d: b"", lambda d: b"\x0b" + d, lambda d: d[:-3]])
def test_a_damaged_file_is_named(folder, spoil):
    path = folder / "tokenizer.model"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UserError, match="tokenizer.model: "):
        load_tokenizer(folder)


def test_a_model_that_changes_texts_is_refused(folder):
    path = folder / "tokenizer.model"
    path.write_bytes(path.read_bytes().replace(b"identity", b"nmt_nfkc"))
    with pytest.raises(UserError, match="changes texts .*nmt_nfkc"):
        load_tokenizer(folder)


def test_an_id_that_does_not_fit_is_named(folder):
    give_settings(folder, added_tokens_decoder={"500": {"content": "<img>"}})
    with pytest.raises(UserError, match="'<img>' should be token 500"):
        load_tokenizer(folder)


def test_without_the_library_a_sentence_says_how_to_get_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece.sentencepiece_model_pb2", None)
    with pytest.raises(UserError, match="pip install sentencepiece protobuf"):
        load_tokenizer(folder)
