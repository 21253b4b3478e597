"""Training rows of HiMTok, ARGenSeg, InternVL and LLaVA: kept word by word, or refused by name."""

import json

import numpy as np
import pytest
from PIL import Image

from bench.data.cards import open_dataset
from methods.base import UserError

SPAN = "<|mt_start|>" + "<|mt_0|>" * 32 + "<|mt_end|>"
MASK = np.zeros((16, 20), bool)
MASK[2:5, 3:9] = True


def talk(*texts):
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]


def himtok_row():
    return {"image": "a.png", "mask": "m.png",
            "conversations": talk("<image>\nSegment <ref>road</ref>.", f"The mask appears at {SPAN}.")}  # fmt: skip


def argenseg_row():
    request = (
        "<image>\n Given the following instructions: one, two; please perform referring segmentation on this image."
    )
    return {"id": "7", "image": "a.png", "mask": ["m.png"], "dataset": "refcoco",
            "conversations": talk(request, "Sure, the segmentation result: <mask>.")}  # fmt: skip


def llava_row():
    system = {"from": "system", "value": "Be brief."}
    return {"image": ["a.png"], "conversations": [system, *talk("What is it?", "A box.", "Sure?", "Yes.")]}


@pytest.fixture
def folder(tmp_path):
    """A folder with an image, and a mask in white and in ones."""
    Image.new("RGB", (20, 16), "gray").save(tmp_path / "a.png")
    Image.fromarray(np.uint8(255 * MASK)).save(tmp_path / "m.png")
    Image.fromarray(np.uint8(MASK)).save(tmp_path / "ones.png")
    Image.fromarray(np.uint8(255 * MASK)).resize((40, 32), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    return tmp_path


def opened(folder, *rows, **options):
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = open_dataset("conversations", folder, **options)
    dataset.check()
    return dataset


def test_every_dialect_is_read_word_by_word(folder):
    himtok, argenseg, llava = opened(folder, himtok_row(), argenseg_row(), llava_row())
    assert himtok.turns == (("user", "<image>\nSegment <ref>road</ref>."), ("assistant", "The mask appears at <mask>."))
    assert himtok.expressions == ("road",) and np.array_equal(himtok.mask, MASK)
    assert argenseg.expressions == ("one, two",) and argenseg.turns[1][1] == "Sure, the segmentation result: <mask>."
    assert np.array_equal(argenseg.mask, MASK) and himtok.image_id == argenseg.image_id == llava.image_id
    assert llava.turns[0] == ("user", "<image>\nWhat is it?") and len(llava.turns) == 4
    assert (llava.expressions, llava.answer, llava.mask) == (("What is it?",), "A box.", None)
    assert [example.task for example in (himtok, argenseg, llava)] == ["conversation"] * 3


@pytest.mark.parametrize("name", ["ones.png", "large.png"])
def test_masks_of_ones_and_of_another_size(folder, name):
    (example,) = opened(folder, himtok_row() | {"mask": name})
    assert np.array_equal(example.mask, MASK)


def test_a_list_and_rows_without_images(folder):
    rows = [himtok_row(), {"conversations": talk("Hello?", "Hello.")}]
    (folder / "rows.json").write_text(json.dumps(rows))
    dataset = open_dataset("conversations", folder / "rows.json")
    assert len(dataset) == 1 and dataset.remarks() == ["1 rows without an image are left out"]


@pytest.mark.parametrize("listed", ["<mask>, <mask>.", "(1) <mask>; (2) <mask>.", "<mask> and <mask>."])
def test_the_masks_of_an_instance_list_are_united(folder, listed):
    other = np.zeros((16, 20), bool)
    other[8:12, 1:5] = True
    Image.fromarray(np.uint8(255 * other)).save(folder / "n.png")
    row = {"image": "a.png", "mask": ["m.png", "n.png"], "conversations": talk("All boxes?", f"Sure: {listed}")}
    dataset = opened(folder, row)
    assert np.array_equal(dataset[0].mask, MASK | other) and dataset[0].turns[1][1].count("<mask>") == 1
    assert dataset[0].turns[1][1].endswith("<mask>.") and len(dataset.with_targets()) == 1
    assert dataset.remarks() == ["the masks of 1 rows with several are united"]


@pytest.mark.parametrize(("repeat", "count"), [(1, 4), (3, 12), (0.5, 2)])
def test_a_meta_file_says_how_often_rows_count(folder, repeat, count):
    (folder / "rows").mkdir()
    rows = [himtok_row(), argenseg_row(), llava_row(), llava_row()]
    (folder / "rows/x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    meta = {"one": {"root": ".", "annotation": "rows/x.jsonl", "repeat_time": repeat, "length": 4}}
    (folder / "meta.json").write_text(json.dumps(meta | {"two": meta["one"] | {"repeat_time": 1}}))
    dataset = open_dataset("conversations", folder)
    assert len(dataset) == count + 4 and len({dataset.info(index).ref_id for index in range(len(dataset))}) == count + 4
    assert len(dataset.by_image()) == max(1, int(repeat)) + 1  # a sampler takes every image once an epoch
    assert dataset[count - 1].turns and dataset.remarks() == []
    meta["one"] |= {"length": 9, "data_augment": True}
    (folder / "meta.json").write_text(json.dumps(meta))
    assert open_dataset("conversations", folder).remarks() == [
        "x.jsonl has 4 rows, but its meta file says 9",
        "the JPEG augmentation that the meta file asks for one is not applied",
    ]


ROWS = [
    ({"image": ["a.png", "b.png"]}, "line 1: it names 2 images, but one is read: give a row for each"),
    ({"mask": ["m.png", "m.png"]}, "line 1: 1 places for a mask in its text, but 2 masks"),
    ({"mask": ["m.png", "m.png"], "conversations": talk("A?", "<mask>.", "B?", "<mask>.")}, "different questions"),
    ({"mask": ["m.png", "m.png"], "conversations": talk("A?", "<mask> eats <mask>.")}, "answer different questions"),
    ({"image": 3}, "line 1: image 3 is not a path"),
    ({"mask": None}, "line 1: 1 places for a mask in its text, but no mask"),
    ({"conversations": talk("Segment it.", "No.")}, "line 1: 0 places for a mask in its text, but one mask"),
    ({"conversations": talk("<mask> <mask>", "Yes.")}, "line 1: 2 places for a mask"),
    ({"conversations": talk("Only a question?")}, "not of human and gpt by turns"),
    ({"conversations": [{"from": "robot", "value": "x"}, {"from": "gpt", "value": "y"}]}, "not of human and gpt"),
    ({"conversations": []}, "not of human and gpt by turns"),
    ({"conversations": talk("<image><image>", "x")}, "more than one <image>"),
    ({"conversations": talk("x", "<image>")}, "more than one <image>, or one in a later turn"),
    ({"conversations": talk("x", 3)}, "no usable value"),
    ({"image": "../a.png"}, "which leaves .*; correct the path"),
    ({"mask": "../m.png"}, "names the file .../m.png., which leaves"),
    ({"mask": "gone.png"}, "gone.png: missing file of sample rows/1"),
    ({"mask": "rows.jsonl"}, "rows.jsonl: unusable file of sample rows/1"),
]


@pytest.mark.parametrize(("change", "complaint"), ROWS)
def test_rows_that_cannot_be_read_are_named(folder, change, complaint):
    with pytest.raises(UserError, match=complaint) as caught:
        opened(folder, himtok_row() | change)
    assert "\n" not in str(caught.value)


META = [
    ({"one": {"root": "."}}, "one has no usable annotation"),
    ({"one": {"root": ".", "annotation": "x.jsonl", "repeat_time": 2.5}}, "repeat_time 2.5, which is no whole number"),
    ({"one": {"root": ".", "annotation": "x.jsonl", "repeat_time": 0}}, "the repeat_time 0"),
    ({"one": {"root": ".", "annotation": "x.jsonl", "repeat_time": "a"}}, "the repeat_time 'a'"),
    ({"one": {"root": ".", "annotation": "x.jsonl", "length": "a"}}, "the length 'a'"),
    ({"one": {"root": ".", "annotation": "x.jsonl"}}, "x.jsonl: cannot be read"),
    ({"one": 3}, "one has no usable root"),
    ({}, "names no file of rows"),
]


@pytest.mark.parametrize(("content", "complaint"), META)
def test_meta_files_that_cannot_be_read_are_named(folder, content, complaint):
    (folder / "meta.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=complaint):
        open_dataset("conversations", folder)
