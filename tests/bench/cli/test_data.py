"""`genseg data ...` with the name of a dataset: check, show, export and back."""

import json

import numpy as np
import pytest
from PIL import Image

from bench.data.cards import card_names, open_dataset


@pytest.fixture
def refcoco(folder):
    """RefCOCO's val in PSALM's form, of two objects on an image, in an empty working folder."""
    (folder / "res/images").mkdir(parents=True)
    Image.new("RGB", (20, 16)).save(folder / "res/images/a.png")
    items = [
        {"image_info": {"file_name": "a.png", "height": 16, "width": 20}, "instruction": [{"sent": f"{n} of two"}],
         "anns": [{"segmentation": [[2 + n, 2, 10, 2, 10, 8, 2 + n, 8]]}]}
        for n in (1, 2)
    ]  # fmt: skip
    (folder / "res/refcoco_val.json").write_text(json.dumps(items))
    return folder


def test_the_list_shows_every_card_with_its_splits_and_counts(genseg):
    out = genseg("data", "list").out
    assert all(name in out for name in card_names())
    assert all(text in out for text in ("testA", "10,834", "20,210"))


def test_a_dataset_is_checked_by_its_name(refcoco, genseg):
    result = genseg("data", "check", "refcoco", "root=res")
    assert (result.code, result.err) == (0, "")
    assert "val: 2 referents, but the release has 3,811." in result.out
    assert "not there: train, testA, testB (source: refcoco.zip" in result.out
    (refcoco / "res/images/a.png").unlink()
    assert "1 of 1 images are missing, such as " in genseg("data", "check", "refcoco", "root=res").out


def test_a_dataset_is_shown_and_exported_and_read_back(refcoco, genseg):
    assert genseg("data", "show", "refcoco", "root=res", "split=val").code == 0
    assert Image.open(refcoco / "sheet.png").format == "PNG"
    result = genseg("data", "export", "refcoco", "root=res", "split=val", "form=himtok", "out=rows")
    assert result.code == 0 and result.out.startswith("2 rows, 2 masks, 0 left out: rows (train on them with")
    assert genseg("data", "export", "conversations", "root=rows", "form=argenseg", "out=other").code == 0
    assert genseg("data", "check", "conversations", "root=other").code == 0
    first, back = open_dataset("refcoco", refcoco / "res", "val"), open_dataset("conversations", refcoco / "other")
    for a, b in zip(first, back, strict=True):
        assert a.expressions == b.expressions and np.array_equal(a.mask, b.mask)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("check", "refcocoo", "root=res"), "There is no dataset 'refcocoo' (did you mean 'refcoco'?)"),
        (("check", "refcoco"), "refcoco: give root=FOLDER, where it lies; source: refcoco.zip"),
        (("check", "refcoco", "root=none"), "none: has no split of refcoco"),
        (("show", "refcoco", "root=res", "split=test"), "has no split 'test'"),
        (("build", "refcoco", "root=res"), "refcoco is not built here; download it"),
        (("export", "refcoco", "root=res", "split=val", "form=coco"), "There is no form 'coco'"),
        (("export", "refcoco", "root=res", "split=val", "out=res"), "res: holds files already"),
        (("export", "refcoco", "root=res", "split=val", "limit=-1"), "limit is '-1'"),
        (("check", "refcoco", "root=res", "dataset=x"), "'dataset'"),
        (("list", "root=x"), "'root'"),
    ],
)
def test_what_makes_no_sense_ends_in_a_sentence(refcoco, genseg, words, complaint):
    before = sorted(refcoco.rglob("*"))
    result = genseg("data", *words)
    assert result.code == 2 and complaint in result.complaint
    assert sorted(refcoco.rglob("*")) == before
