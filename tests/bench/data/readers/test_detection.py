"""Boxes without masks: what a class's name means without doubt."""

import json

import pytest
from PIL import Image

from bench.data.cards import open_dataset
from methods.base import UserError


def write(root, *boxes):
    """An image as Objects365 has it, and boxes (class, crowd, x, y, width, height)."""
    (root / "train/patch0").mkdir(parents=True)
    Image.new("RGB", (20, 16)).save(root / "train/patch0/objects365_v2_1.jpg")
    (root / "zhiyuan_objv2_train.json").write_text(json.dumps({
        "images": [{"id": 1, "file_name": "images/v2/patch0/objects365_v2_1.jpg", "width": 20, "height": 16}],
        "annotations": [{"id": 10 + n, "image_id": 1, "category_id": c, "iscrowd": crowd, "bbox": box}
                        for n, (c, crowd, *box) in enumerate(boxes)],
        "categories": [{"id": 1, "name": "Person"}, {"id": 2, "name": "Chair"}, {"id": 3, "name": "Dog"}],
    }))  # fmt: skip


def test_only_classes_that_are_shown_once_are_asked(tmp_path):
    write(tmp_path, (1, 0, 1, 2, 3, 4), (2, 0, 0, 0, 5, 5), (2, 0, 6, 6, 5, 5), (3, 1, 0, 0, 9, 9))
    dataset = open_dataset("objects365", tmp_path)
    dataset.check()
    (example,) = dataset
    assert (example.expressions, example.box, example.ref_id) == (("Person",), (1.0, 2.0, 4.0, 6.0), 10)
    assert example.mask is None and example.image.exists()
    assert (dataset.serves, dataset.wants) == ("boxes", ("box",))


@pytest.mark.parametrize("box", [(1, 2, 0, 4), (1, 2, -3, 4), (1, 2, 3), ("1", 2, 3, 4), (1, 2, 3, 1e9)])
def test_a_box_that_is_none_is_refused(tmp_path, box):
    write(tmp_path, (1, 0, *box))
    with pytest.raises(UserError, match=r"zhiyuan_objv2_train.json: annotation 10 has the bbox"):
        open_dataset("objects365", tmp_path)


def test_nothing_to_ask(tmp_path):
    write(tmp_path, (2, 0, 0, 0, 5, 5), (2, 0, 6, 6, 5, 5))
    with pytest.raises(UserError, match="nothing of split 'train' can be asked"):
        open_dataset("objects365", tmp_path)
