"""Captions and questions: read back exactly, and refused when broken."""

import json

import pytest
from PIL import Image

from bench.data.cards import open_dataset
from bench.data.readers.places import NotThere
from methods.base import UserError

ROWS = [
    {"image_id": "a", "file_name": "a.png", "split": "train", "kind": "caption", "question": "What is shown?",
     "answer": "a box"},
    {"image_id": "a", "file_name": "a.png", "split": "train", "kind": "colour", "question": "What colour is it?",
     "answer": "red"},
    {"image_id": "b", "file_name": "sub/b.png", "split": "train", "kind": "count", "question": " ", "answer": "two"},
    {"image_id": "b", "file_name": "sub/b.png", "split": "val", "kind": "count", "question": "How many?",
     "answer": "two"},
]  # fmt: skip


@pytest.fixture
def root(tmp_path):
    (tmp_path / "images/sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        Image.new("RGB", (6, 4)).save(tmp_path / "images" / name)
    (tmp_path / "captions.json").write_text(json.dumps(ROWS))
    return tmp_path


def test_captions_and_questions_are_read_back_exactly(root):
    dataset = open_dataset("captions", root, "train")
    found = [(e.image.name, e.expressions, e.answer, e.task, e.image_id) for e in dataset]
    assert found == [
        ("a.png", ("What is shown?",), "a box", "caption", "a"),
        ("a.png", ("What colour is it?",), "red", "question", "a"),
    ]
    assert dataset.remarks() == ["1 questions without words or answer are left out"]
    assert list(dataset.texts()) == ["What is shown?", "a box", "What colour is it?", "red"]
    assert [e.answer for e in open_dataset("captions", root, "val")] == ["two"]
    moved = root.rename(root.with_name("elsewhere"))
    (moved / "images").rename(moved / "photos")
    assert open_dataset("captions", moved, "val", images=moved / "photos")[0].image.exists()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda rows: {"rows": rows}, "holds a dict, not a list of questions"),
        (lambda rows: [7, *rows], "record 0 lacks one of answer"),
        (lambda rows: [{k: v for k, v in rows[0].items() if k != "kind"}], "record 0 lacks one of"),
        (lambda rows: [rows[0] | {"answer": 3}], "record 0 has a value that is no text"),
        (lambda rows: [rows[0], rows[1] | {"image_id": 7}], "record 1 has the image_id 7, but all must be"),
        (lambda rows: [rows[0] | {"split": "test"}], "has no questions for split 'train'; it has test"),
        (lambda rows: [rows[0] | {"file_name": "../a.png"}], "question 0 of .*leaves"),
        (lambda rows: [rows[0] | {"file_name": "c.png"}], "c.png: missing image of a question"),
    ],
)
def test_what_cannot_be_read_is_named(root, change, complaint):
    (root / "captions.json").write_text(json.dumps(change(ROWS)))
    with pytest.raises(UserError, match=complaint) as told:
        list(open_dataset("captions", root, "train"))
    assert "\n" not in str(told.value) and str(root) in str(told.value)


@pytest.mark.parametrize("content", [b"", b"[", b"\xff\xfe", b'"x"'])
def test_files_of_another_kind(root, content):
    (root / "captions.json").write_bytes(content)
    with pytest.raises(UserError, match="captions.json"):
        open_dataset("captions", root, "train")


def test_there_is_nothing(tmp_path):
    with pytest.raises(NotThere, match="no such file"):
        open_dataset("captions", tmp_path, "train")
