"""Cards, captions, checking and contact sheets."""

from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image

from bench.cli.datasets import check, list_cards, show
from bench.data.cards import card_names, load_card, open_dataset
from bench.data.readers.captions import KINDS, CaptionDataset
from bench.data.readers.refer import ReferDataset
from bench.refmoji.levels import LEVELS
from bench.refmoji.lexicon import Entry, lexicon
from methods.base import UserError
from methods.images import open_image


def test_every_card_is_readable():
    rows = {row["name"]: row for row in list_cards()}
    assert {"refmoji", "refcoco", "refcoco+", "refcocog"} <= rows.keys() == set(card_names())
    assert rows["refmoji"]["kind"] == "synthetic" and rows["refmoji"]["levels"] == list(LEVELS)
    assert {"train", "test", "dev", *LEVELS["full"].splits} == set(rows["refmoji"]["splits"])


def test_datasets_are_opened_by_name(easy_root):
    dataset = open_dataset("refmoji", easy_root, "val", limit=3)
    assert isinstance(dataset, ReferDataset) and len(dataset) == 3
    assert isinstance(open_dataset("refmoji", easy_root, "train", reader="captions"), CaptionDataset)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("refcocoo",), r"no dataset 'refcocoo' \(did you mean 'refcoco'\?\)"),
        (("refcoco",), "give root"),
        (("refmoji", "x", "testC"), r"no split 'testC' \(did you mean 'test'\?\)"),
    ],
)
def test_wrong_names_are_answered_with_the_right_ones(arguments, message):
    with pytest.raises(UserError, match=message):
        open_dataset(*arguments)


def test_a_broken_card(tmp_path, monkeypatch):
    (tmp_path / "odd.yaml").write_text("name: odd\ncolour: red\n")
    monkeypatch.setattr("bench.data.cards.FOLDER", tmp_path)
    with pytest.raises(UserError, match="odd.yaml: unknown field"):
        load_card("odd")


def test_captions(easy_root):
    dataset = CaptionDataset(easy_root, "train")
    assert 12 <= len(dataset) <= 36
    for example in dataset:
        assert example.facts["kind"] in KINDS and example.answer and example.expressions[0][-1] in ".?"
        assert example.task == ("caption" if example.facts["kind"] == "caption" else "question")
        assert example.mask is None and open_image(example.image).size == (224, 224)
    captions = CaptionDataset(easy_root, "val", kinds=["caption"])
    assert len(captions) == len({example.image_id for example in captions})


def test_counting_questions_agree_with_the_annotations(easy_root, read):
    shown: dict[int, list[Entry]] = {}
    for annotation in read(easy_root, "instances.json")["annotations"]:
        shown.setdefault(annotation["image_id"], []).append(lexicon()[annotation["sprite"]])
    checked = 0
    for example in CaptionDataset(easy_root, "val", kinds=["count"]):
        plural = example.expressions[0].removeprefix("How many ").removesuffix(" are there?")
        found = sum(any(lexicon().plural(word) == plural for word in item.words) for item in shown[example.image_id])
        assert str(found) == example.answer
        checked += 1
    assert checked > 10


def test_captions_that_are_missing(easy_root, tmp_path):
    with pytest.raises(UserError, match="captions.json: no such file"):
        CaptionDataset(tmp_path, "val")
    with pytest.raises(UserError, match="no questions for split 'testA'; it has train, val"):
        CaptionDataset(easy_root, "testA")
    with pytest.raises(UserError, match="no kind 'why'"):
        CaptionDataset(easy_root, "val", kinds=["why"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda records: 7, "holds a int, not a list of questions"),
        (lambda records: [7], "record 0 lacks"),
        (lambda records: [*records, records[0] | {"image_id": "a"}], "has the image_id 'a', but all must be numbers"),
        (lambda records: [records[0] | {"image_id": None}], "has the image_id None"),
        (lambda records: [records[0] | {"split": 3}], "record 0 has a value that is no text"),
    ],
)
def test_captions_that_are_broken(easy_root, read, tmp_path, change, message):
    (tmp_path / "captions.json").write_text(json.dumps(change(read(easy_root, "captions.json"))))
    with pytest.raises(UserError, match=f"captions.json: .*{message}"):
        CaptionDataset(tmp_path, "train")


def test_show_writes_a_sheet(easy_root, tmp_path):
    path = show(easy_root, "val", tmp_path / "new" / "sheet.png", count=7)
    with Image.open(path) as page:
        assert page.format == "PNG" and page.width > 6 * 256 and page.height > 2 * 256


@pytest.fixture
def broken(easy_root, tmp_path):
    """break(name, change) -> a copy of the dataset with one JSON file changed in place."""

    def apply(name, change):
        root = tmp_path / "broken"
        shutil.copytree(easy_root, root)
        data = json.loads((root / name).read_text(encoding="utf-8"))
        change(data)
        (root / name).write_text(json.dumps(data), encoding="utf-8")
        return root

    return apply


def turned(refs):
    """Let the first sentence about a left object speak of the right."""
    for ref in refs:
        for sentence in ref["sentences"]:
            if sentence["claims"] == [["position", "left"]]:
                sentence["claims"] = [["position", "right"]]
                return


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("refs(genseg).json", turned, "does not mean just its object"),
        ("instances.json", lambda data: data["annotations"][3].update(area=1), "mask, area and box of annotation"),
        ("instances.json", lambda data: data["images"][0].update(width=225), "is 224x224, not 225x224"),
        ("refs(genseg).json", lambda refs: refs.pop(), "are not those of the files"),
        ("captions.json", lambda items: items[0].update(answer=""), "is empty"),
        ("instances.json", lambda data: data["annotations"][3].update(segmentation=[[1, 2]]), "unusable segmentation"),
    ],
)
def test_check_finds_what_is_broken(broken, name, change, message):
    with pytest.raises(UserError, match=message):
        check(broken(name, change))


def test_check_wants_a_finished_build(tmp_path):
    with pytest.raises(UserError, match="no finished RefMoji"):
        check(tmp_path)
