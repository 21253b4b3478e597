"""Images with words: image folders and ARGenSeg's rows of generation."""

import json

import pytest
from PIL import Image

from bench.config import load_profile
from bench.data.cards import open_dataset
from bench.data.mixture import open_mixture
from bench.data.readers.pairs import QUESTION
from bench.data.readers.places import NotThere
from methods.base import UserError

DRAW = [{"from": "human", "value": "Draw a red kite."}, {"from": "gpt", "value": "Here it is: <mask>."}]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pics").mkdir()
    for name in "ab":
        Image.new("RGB", (20, 16), "gray").save(tmp_path / f"pics/{name}.png")
    return tmp_path


def opened(folder, *rows, name="metadata.jsonl", **options):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = open_dataset("pairs", folder, **options)
    dataset.check()
    return dataset


def test_image_folders(folder):
    rows = [{"file_name": "pics/a.png", "text": " A kite. "}, {"file_name": "pics/b.png", "caption": "Two kites."}]
    dataset = opened(folder, *rows, {"file_name": "pics/a.png", "text": " "})
    assert [example.answer for example in dataset] == ["A kite.", "Two kites."]
    assert [example.image for example in dataset] == [folder / "pics/a.png", folder / "pics/b.png"]
    assert dataset.remarks() == ["1 lines without words or image are left out"]
    assert list(dataset.texts()) == [QUESTION, "A kite.", "Two kites."]


def test_rows_of_generation(folder):
    """The image stands in the place of the mask; other rows of the same file are for `conversations`."""
    other = {"image": "pics/a.png", "mask": "pics/b.png", "conversations": DRAW}
    dataset = opened(folder, {"mask": ["pics/b.png"], "conversations": DRAW}, other, name="rows.jsonl")
    assert [(example.answer, example.image.name) for example in dataset] == [("Draw a red kite.", "b.png")]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"text": "A kite."}, "line 1: no usable file_name"),
        ({"file_name": "pics/a.png", "text": 3}, "line 1: no usable text"),
        ({"file_name": "../a.png", "text": "A kite."}, "which leaves"),
        ({"file_name": "pics/c.png", "text": "A kite."}, "c.png: missing image"),
        ({"mask": ["pics/a.png", "pics/b.png"], "conversations": DRAW}, "it names 2 masks"),
        ({"mask": "pics/a.png", "conversations": ["Draw."]}, "line 1: no usable from"),
        ({"file_name": "pics/a.png"}, "nothing of split 'train' can be asked"),
    ],
)
def test_malformed_lines(folder, row, complaint):
    with pytest.raises(UserError, match=complaint) as caught:
        opened(folder, row)
    assert "\n" not in str(caught.value)


def test_what_is_not_there(tmp_path):
    with pytest.raises(NotThere, match="metadata.jsonl"):
        open_dataset("pairs", tmp_path)


def test_a_mixture_serves_captions_and_generation(folder):
    opened(folder, {"file_name": "pics/a.png", "text": "A kite."})
    (folder / "own.yaml").write_text(f"""
name: own
data: {{dataset: refmoji, root: {folder}, mixture: {{drawn: {{dataset: pairs, root: {folder}, weight: 1}}}}}}
stages: {{draw: {{method: argenseg, stage: joint, steps: 1, tasks: {{generate: 0.5, caption: 0.5, segment: 1.0}}}}}}
""")
    profile = load_profile(folder / "own.yaml")
    (component,) = open_mixture(profile, profile.stages["draw"])
    assert component.tasks == {"generate": 0.5, "caption": 0.5}
    assert {task: dataset[0].answer for task, dataset in component.datasets.items()} == dict.fromkeys(
        ("generate", "caption"), "A kite."
    )
    with pytest.raises(UserError, match="no questions"):
        open_dataset("pairs", folder, kinds=("question",))
