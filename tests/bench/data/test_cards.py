"""Cards, and how a further dataset is added: one reader file and one card."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from bench.cli import datasets
from bench.data import cards
from bench.data.cards import card_names, load_card, open_dataset
from bench.data.dataset import ExampleDataset
from bench.data.readers import READERS
from bench.evaluate.commands import Place, score_file
from bench.evaluate.plan import plan
from methods.base import Example, UserError

CARD = {"name": "lines", "title": "One line per referent", "kind": "real", "reader": "lines", "licence": "yours",
        "splits": {"val": "all"}, "options": {"colour": "red"}}  # fmt: skip


class LineDataset(ExampleDataset):
    """The reader of a format of its own: a JSON line per referent, with a rectangle."""

    def __init__(self, root, split, name, colour="blue"):
        rows = [json.loads(line) for line in (root / f"{split}.jsonl").read_text().splitlines()]
        super().__init__([self.example(row, colour) for row in rows], name, split)

    @staticmethod
    def example(row, colour):
        image = Image.new("RGB", (20, 10), colour)
        x1, y1, x2, y2 = row["box"]
        mask = [[x1 <= x < x2 and y1 <= y < y2 for x in range(20)] for y in range(10)]
        return Example(image, (row["words"],), np.array(mask), tuple(map(float, row["box"])), image_id=row["id"],
                       ref_id=row["id"])  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder of cards, and a reader that a card may name."""
    monkeypatch.setattr(cards, "FOLDER", tmp_path)
    monkeypatch.setitem(READERS, "lines", LineDataset)
    return tmp_path


def test_a_further_dataset_is_one_reader_and_one_card(folder):
    (folder / "lines.yaml").write_text(yaml.safe_dump(CARD))
    rows = [{"id": number, "words": "the red one", "box": [2, 2, 8, 6]} for number in range(3)]
    (folder / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = open_dataset("lines", folder)
    assert (dataset.name, dataset.split, len(dataset)) == ("lines", "val", 3)
    assert dataset[0].image.getpixel((0, 0)) == (255, 0, 0)  # the card's option
    assert len(plan(dataset, "per_expression")) == 3
    answer = {"dataset": "lines", "split": "val", "mask": None}
    (folder / "mine.jsonl").write_text("".join(
        json.dumps({"ref_id": number, "image_id": number} | answer) + "\n" for number in range(3)
    ))  # fmt: skip
    records = {record.metric: record for record in score_file(folder / "mine.jsonl", Place(folder))}
    assert (records["giou"].value, records["giou"].n, records["giou"].failures) == (0, 3, 3)
    with pytest.raises(UserError, match="'lines' has no split_by; it is read by lines, which has no such option"):
        open_dataset("lines", folder, split_by="umd")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"kind": "odd"}, "'odd' is unknown; use one of synthetic, real"),
        ({"reader": "refre"}, "'refre' is unknown; use one of captions, coco, "),
        ({"title": None}, "title is None, not text"),
        ({"splits": ["val"]}, r"splits is \['val'\], not of type"),
        ({"levels": "easy"}, "levels is 'easy'"),
        ({"licence": ...}, "no field 'licence'"),
        ({"extra": 1}, "unknown field 'extra'"),
    ],
)
def test_a_wrong_card_is_named_and_hides_no_other(folder, capsys, change, complaint):
    (folder / "lines.yaml").write_text(yaml.safe_dump(CARD))
    wrong = {key: value for key, value in (CARD | change).items() if value is not ...}
    (folder / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    with pytest.raises(UserError, match=rf"wrong.yaml: .*{complaint}"):
        load_card("wrong")
    assert [row["name"] for row in datasets.list_cards()] == ["lines"]
    assert "wrong.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[", "- a\n- b\n", "5", "\x00", "a: &a [*a]\n"])
def test_a_file_that_is_no_card(folder, text):
    (folder / "wrong.yaml").write_text(text)
    with pytest.raises(UserError, match=r"wrong.yaml: "):
        load_card("wrong")


def test_the_cards_that_come_along():
    assert {"refmoji", "refcoco", "refcoco+", "refcocog", "grefcoco", "captions", "images"} <= set(card_names())
    for name in card_names():
        assert load_card(name).name == name


DOCS = Path(__file__).parents[3] / "docs" / "data.md"


def test_the_documentation_names_every_form_and_dataset():
    table = {row.split("|")[1].strip(" `"): row for row in DOCS.read_text().splitlines() if row.startswith("| `")}
    assert table.keys() == READERS.keys()
    for name in card_names():
        for reader in load_card(name).readers:
            assert name in table[reader]
    tested = DOCS.read_text().partition("| reader | read back exactly")[2].partition("\n\n")[0]
    assert {row.split("|")[1].strip() for row in tested.splitlines()[2:]} == READERS.keys()


def test_the_reader_of_the_documentation_reads(folder, monkeypatch):
    made = {}
    exec(DOCS.read_text().split("```python")[1].split("```")[0], made)
    monkeypatch.setitem(READERS, "mine", made["READER"])
    (folder / "mine.yaml").write_text(yaml.safe_dump(CARD | {"name": "mine", "reader": "mine", "options": {}}))
    (folder / "images").mkdir()
    Image.new("RGB", (20, 16)).save(folder / "images/a.png")
    row = {"image": "a.png", "height": 16, "width": 20, "text": "it", "segmentation": [[2, 2, 10, 2, 10, 8, 2, 8]]}
    (folder / "mine.jsonl").write_text(json.dumps(row))
    (example,) = open_dataset("mine", folder)
    assert (example.expressions, example.mask.sum(), example.image.name) == (("it",), 48, "a.png")
