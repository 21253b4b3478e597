"""What `genseg data check` says of a dataset: found, missing, wrong, and how to mend it."""

import hashlib
import json
from dataclasses import replace

import pytest
from PIL import Image

from bench.cli import datasets
from bench.data import cards
from bench.data.cards import card_names, load_card
from bench.data.readers.places import NotThere
from bench.data.status import archives_of, how_to_get, status_of
from methods.base import UserError

CLASSES = {"ade20k-150": 150, "context-59": 59, "voc-20": 20, "coco-stuff": 171}


@pytest.fixture
def refcoco(tmp_path):
    """RefCOCO's val, in PSALM's form, of two objects on one image."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (20, 16)).save(tmp_path / "images/a.png")
    item = {"image_info": {"file_name": "a.png", "height": 16, "width": 20}, "instruction": [{"sent": "it"}],
            "anns": [{"segmentation": [[2, 2, 10, 2, 10, 8]]}]}  # fmt: skip
    (tmp_path / "refcoco_val.json").write_text(json.dumps([item, item]))
    return tmp_path


def states(root, **where):
    return {each.split: each for each in status_of(load_card("refcoco"), root, where)}


def test_what_is_found_is_compared_with_the_release(refcoco):
    found = states(refcoco)
    assert {split: each.state for split, each in found.items()} == {
        "train": "missing", "val": "found", "testA": "missing", "testB": "missing",
    }  # fmt: skip
    val = found["val"]
    assert val.form == "psalm" and val.counts == {"images": 1, "referents": 2, "expressions": 2, "no target": 0}
    assert val.notes == ("1 images, but the release has 1,500", "2 referents, but the release has 3,811",
                         "2 expressions, but the release has 10,834")  # fmt: skip


def test_a_number_that_nobody_confirms_is_told_as_such(refcoco):
    card = replace(load_card("refcoco"), counts_source="")
    (_, val, *_) = status_of(card, refcoco, {})
    assert val.notes[0] == "1 images, but 1,500 are expected, a number that no source confirms"


def test_images_that_are_missing_are_counted(refcoco):
    (refcoco / "images/a.png").unlink()
    val = states(refcoco)["val"]
    assert val.state == "images missing" and val.counts["referents"] == 2
    assert val.notes[0].startswith(
        f"1 of 1 images are missing, such as {refcoco}/images/a.png; get them, or give images"
    )
    (refcoco / "else").mkdir()
    Image.new("RGB", (20, 16)).save(refcoco / "else/a.png")
    assert states(refcoco, images=str(refcoco / "else"))["val"].state == "found"


@pytest.mark.parametrize("change", [{"file_name": "../a.png"}, {"height": 0}, {"file_name": "b.png"}])
def test_what_is_wrong_is_told_last_and_in_a_sentence(refcoco, capsys, change):
    path = refcoco / "refcoco_val.json"
    items = json.loads(path.read_text())
    items[1]["image_info"] |= change
    items[1]["anns"][0]["segmentation"] = [[1, 2]]
    path.write_text(json.dumps(items))
    val = states(refcoco)["val"]
    assert val.state == ("images missing" if change == {"file_name": "b.png"} else "wrong")
    if val.state == "wrong":
        with pytest.raises(UserError, match="split val: .*refcoco_val.json.*correct") as caught:
            datasets.check(refcoco, "refcoco")
        assert "\n" not in str(caught.value)
    else:
        assert "unusable segmentation" in val.notes[-1]
        assert datasets.check(refcoco, "refcoco")[1]["state"] == "images missing"
    assert "not there: train, testA, testB (source: refcoco.zip of the REFER release" in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in card_names() if load_card(name).kind == "real"])
def test_every_card_says_what_is_missing_and_how_to_mend_it(name, tmp_path, capsys):
    with pytest.raises(UserError, match=str(tmp_path)):
        datasets.check(tmp_path, name)
    told, card = capsys.readouterr().out, load_card(name)
    assert card.source.split(";")[0] in told or "wrong" in told
    assert how_to_get(card).count("<") == how_to_get(card).count(">") and "{name}" not in how_to_get(card)
    assert all(split in told for split in card.splits)


def test_archives_are_compared_with_their_digests(tmp_path, monkeypatch):
    (tmp_path / "cards").mkdir()
    digests = {"a.zip": hashlib.sha256(b"a"), "b.zip": hashlib.md5(b"b"), "c.zip": hashlib.md5(b"c")}
    card = {"name": "mine", "title": "mine", "kind": "real", "reader": "folder", "licence": "mine"}
    card |= {"splits": {"a": "x"}, "archives": {name: f"{d.name} {d.hexdigest()}" for name, d in digests.items()}}
    (tmp_path / "cards/mine.yaml").write_text(json.dumps(card))
    monkeypatch.setattr(cards, "FOLDER", tmp_path / "cards")
    for name, content in (("a.zip", b"a"), ("b.zip", b"else")):
        (tmp_path / name).write_bytes(content)
    assert archives_of(load_card("mine"), tmp_path) == {"a.zip": True, "b.zip": False}
    for wrong in ("sha256", "crc32 00", "md5 12", "md5 " + "g" * 32):
        card["archives"] = {"a.zip": wrong}
        (tmp_path / "cards/mine.yaml").write_text(json.dumps(card))
        with pytest.raises(UserError, match="mine.yaml: .*a.zip"):
            load_card("mine")


def test_cards_state_only_what_a_reader_knows():
    for name in card_names():
        card = load_card(name)
        assert set(card.counts) <= set(card.splits)
        assert bool(card.counts_source) == bool(card.counts) or name == "context-59"
        assert all(count > 0 for counts in card.counts.values() for count in counts.values())
        classes = [name for name in card.options.get("classes", ()) if name is not None]
        assert len(set(classes)) == len(classes) == CLASSES.get(name, 0)


def test_nothing_at_all_is_there(tmp_path):
    with pytest.raises(NotThere, match="has no split of refcoco; give the folder that holds it as root"):
        datasets.check(tmp_path, "refcoco")
