"""Files: whatever bytes or values come in, the answer is a value or one sentence."""

import json
import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from methods.base import UserError
from methods.files import (
    check_text,
    decode,
    file_name,
    fill,
    number,
    numbered_lines,
    parse_json,
    read_json,
    read_lines,
    write_atomic,
)

REPAIR = "give another"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\ud83d") | st.just(10**4000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@dataclass(frozen=True)
class Row:
    name: str
    value: float
    count: int = 0
    low: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)


def sentence(error) -> str:
    text = str(error.value if hasattr(error, "value") else error)
    assert "\n" not in text and text.isprintable() and text.endswith(".")
    return text


@given(st.binary(max_size=60))
def test_bytes_are_a_value_or_a_sentence(data):
    try:
        json.dumps(parse_json(data, "f", REPAIR), ensure_ascii=False).encode()
    except UserError as error:
        assert sentence(error).startswith("f: ")


@given(VALUES)
def test_a_value_fills_a_dataclass_or_is_a_sentence(value):
    rows = [value, {"name": value, "value": 1}, {"name": "a", "value": value},
            {"name": "a", "value": 1, "count": value},
            {"name": "a", "value": 1, "low": value}, {"name": "a", "value": 1, "versions": value},
            {"name": "a", "value": 1, "sizes": value}]  # fmt: skip
    for row in rows:
        try:
            made = fill(Row, row, "f, line 1", REPAIR)
        except UserError as error:
            assert sentence(error).startswith("f, line 1: ")
        else:
            assert math.isfinite(made.value) and isinstance(made.name, str) and not isinstance(made.count, bool)


@given(VALUES)
def test_a_number_is_within_bounds_or_a_sentence(value):
    for whole in (True, False):
        try:
            assert 1 <= number(value, "x", 1, 9, whole) <= 9
        except UserError as error:
            assert sentence(error).startswith("x is ")


@pytest.mark.parametrize(("value", "found"), [("7", 7), ("1e3", 1000.0), (3, 3), (3.0, 3)])
def test_numbers(value, found):
    assert number(value, "x", 0, whole=isinstance(found, int)) == found


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "", "x", True, None, [], "9" * 5000, float("nan"), 10**400])
def test_not_a_number(value):
    with pytest.raises(UserError, match="but must be a number of at least 0 and at most 5"):
        number(value, "x", 0, 5)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": "\\ud83d"}', r"U\+D83D, half a character"),
        (b"9" * 5000, "not valid JSON"),
        (b"\xff\xfe{\x00", "not UTF-8 text"),
        (b"{", "not valid JSON"),
    ],
)
def test_json_that_cannot_be_used(tmp_path, data, complaint):
    path = tmp_path / "f.json"
    path.write_bytes(data)
    with pytest.raises(UserError, match=complaint) as error:
        read_json(path, REPAIR)
    assert str(path) in sentence(error)


def test_a_mark_at_the_beginning_and_pairs_of_surrogates_are_read():
    assert parse_json(b"\xef\xbb\xbf[1]", "f", REPAIR) == [1]
    assert parse_json(rb'"\ud83d\ude00"', "f", REPAIR) == "\U0001f600"
    assert decode(b"\xef\xbb\xbfa", "f", REPAIR) == "a"


def test_a_line_ends_at_a_line_feed_alone():
    assert numbered_lines("a\u2028b\x0c\r\n\n c") == [(1, "a\u2028b\x0c"), (3, " c")]


def test_lone_surrogates_are_refused():
    assert check_text("caf\xe9", "the expression") == "caf\xe9"
    with pytest.raises(UserError, match=r"the expression: holds U\+DCE9"):
        check_text("caf\udce9", "the expression")


def test_lines_are_named(tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_text('{"a": 1}\n\n[1]\n')
    with pytest.raises(UserError, match="f.jsonl, line 3: not a JSON object"):
        read_lines(path)
    path.write_text("\ufeff" + '{"a": 1}\r\n')
    assert read_lines(path) == [(1, {"a": 1})]


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_name_that_no_file_can_have(tmp_path, name):
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path / name, REPAIR)
    with pytest.raises(UserError, match="cannot be written"):
        write_atomic(tmp_path / name, "")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_no_folder(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_atomic(tmp_path / "f" / "g", "x")


@given(st.lists(st.tuples(st.text(), st.text()), min_size=2, max_size=2, unique=True), st.sampled_from("-."))
def test_different_labels_never_share_a_file(labels, join):
    first, second = (file_name(*pair, join=join) for pair in labels)
    assert first != second
    for name in (first, second):
        assert join == "." or not name.startswith(".")
        assert name.isascii() and name.isprintable() and not set(name) & set('/\\:*?"<>| ')


def test_names_of_files_stay_readable():
    assert file_name("box_after=0") == "box_after=0"
    assert file_name("a b") == "a%20b" != file_name("a-b") == "a%2Db"
    assert file_name("..") == "%2E."
    assert file_name("mid", "himtok", "1", "32") == "mid-himtok-1-32"
