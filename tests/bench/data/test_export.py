"""Export of any dataset to training rows of either form, and back."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.data.cards import open_dataset
from bench.data.dataset import ExampleDataset
from bench.data.export import FORMS, export
from methods.base import Example, UserError
from methods.images import open_image


@pytest.fixture
def mine(tmp_path):
    """A dataset with an image on disk and one that is at hand, of two referents and one of nothing."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (20, 16), "red").save(tmp_path / "images/a.png")
    masks = np.zeros((2, 16, 20), bool)
    masks[0, 2:8, 2:10], masks[1, 9:, 12:] = True, True
    image = Image.new("RGB", (20, 16), "blue")
    examples = [
        Example(tmp_path / "images/a.png", ("the box", "it"), masks[0], image_id="a", ref_id=1, dataset="mine"),
        Example(image, ("the corner; at the right",), masks[1], image_id="b", ref_id=2, dataset="mine"),
        Example(image, ("a giraffe",), np.zeros((16, 20), bool), image_id="b", ref_id=3, no_target=True),
    ]
    return ExampleDataset(examples, "mine")


@pytest.mark.parametrize("form", FORMS)
def test_what_is_exported_is_read_back(mine, tmp_path, form):
    out = tmp_path / "out"
    assert export(mine, form, out) == {"rows": 3, "masks": 2, "left out": 1}
    back = open_dataset("conversations", out)
    back.check()
    assert back.remarks() == []
    expected = [(0, "the box"), (0, "it"), (1, "the corner; at the right")]
    for example, (number, words) in zip(back, expected, strict=True):
        source = mine[number]
        assert example.expressions == (words,) and np.array_equal(example.mask, source.mask)
        assert np.array_equal(np.asarray(open_image(example.image)), np.asarray(open_image(source.image)))
    assert back[0].image == tmp_path / "images/a.png"  # which stays where it is
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [set(row) >= {"image", "mask", "conversations"} for row in rows] == [True] * 3
    assert ("<|mt_0|>" * 32 in rows[0]["conversations"][1]["value"]) == (form == "himtok")


def test_from_one_form_to_the_other_and_back(mine, tmp_path):
    export(mine, "himtok", tmp_path / "first")
    export(open_dataset("conversations", tmp_path / "first"), "argenseg", tmp_path / "second")
    export(open_dataset("conversations", tmp_path / "second"), "himtok", tmp_path / "third")
    first, third = (open_dataset("conversations", tmp_path / name) for name in ("first", "third"))
    for a, b in zip(first, third, strict=True):
        assert (a.turns, a.expressions, a.image) == (b.turns, b.expressions, b.image) and np.array_equal(a.mask, b.mask)


@settings(max_examples=150, deadline=None)
@given(
    words=st.text(max_size=30) | st.sampled_from(["<ref>", "a</ref>b", "<image>", "\n<image>", "<mask>", "<|mt_3|>",
                                                  "; please perform", "instructions: a; please perform", "  two  "]),
    form=st.sampled_from(FORMS), with_mask=st.booleans(),
)  # fmt: skip
def test_any_words_are_read_back_or_refused(words, form, with_mask):
    mask = np.eye(5, dtype=bool) if with_mask else None
    image = Image.new("RGB", (5, 5))
    samples = ExampleDataset([Example(image, (words,), mask, ref_id=1, answer=None if with_mask else "yes")], "mine")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        try:
            export(samples, form, out)
        except UserError as error:
            assert "mine sample 1" in str(error) or "cannot stand in a row" in str(error)
            assert not out.exists()
            return
        (back,) = open_dataset("conversations", out)
        assert back.expressions == (words,) and back.answer == samples[0].answer
        assert np.array_equal(back.mask, mask)


def test_questions_are_exported_too(easy_root, tmp_path):
    captions = open_dataset("refmoji", easy_root, "val", reader="captions")
    assert export(captions, "argenseg", tmp_path / "out", limit=5) == {"rows": 5, "masks": 0, "left out": 0}
    back = open_dataset("conversations", tmp_path / "out")
    assert [(e.expressions, e.answer) for e in back] == [
        (captions[i].expressions, captions[i].answer) for i in range(5)
    ]


def test_nothing_is_replaced_and_nothing_is_left_half(mine, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(UserError, match="out: holds files already"):
        export(mine, "himtok", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    with pytest.raises(UserError, match="no form 'coco' of training rows; choose himtok or argenseg"):
        export(mine, "coco", tmp_path / "new")
    with pytest.raises(UserError, match="no sample can be written as a row"):
        export(ExampleDataset([mine[2]], "mine"), "himtok", tmp_path / "new")
    boxes = ExampleDataset([mine[0]], "boxes")
    boxes.serves = "boxes"
    with pytest.raises(UserError, match="holds boxes, of which no row can be made"):
        export(boxes, "himtok", tmp_path / "new")
    assert not (tmp_path / "new").exists()
