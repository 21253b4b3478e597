"""The mixtures of both papers, resolved against a folder with a tiny stand-in for every dataset that they name."""

import json

import numpy as np
import pytest
from PIL import Image

from bench.config import load_profile
from bench.data import rle
from bench.data.mixture import open_mixture
from bench.data.sampler import Sampler
from methods.base import UserError

HEIGHT, WIDTH = 16, 20
BOX = [2, 2, 8, 6]  # x, y, width, height
POLYGON = [2, 2, 10, 2, 10, 8, 2, 8]
MASK = rle.rasterize([POLYGON], HEIGHT, WIDTH)
IMAGE = {"height": HEIGHT, "width": WIDTH}
STAGES = {"himtok": ("tokenizer", "align", "tune", "finetune"), "argenseg": ("joint", "finetune")}


def save_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), "gray").save(path)


def document(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def labels(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.uint8(values)).save(path)


def instances(file_name, with_masks=True):
    """COCO's form with one object in one image."""
    annotation = {"id": 7, "image_id": 1, "category_id": 3, "bbox": BOX, "iscrowd": 0, "area": 48}
    annotation |= {"segmentation": [POLYGON]} if with_masks else {}
    return {"images": [{"id": 1, "file_name": file_name, **IMAGE}], "annotations": [annotation],
            "categories": [{"id": 3, "name": "box"}]}  # fmt: skip


def write_coco(root):
    """COCO 2017 with COCO-ReM, COCO-Stuff and the panoptic annotations."""
    save_image(root / "coco/train2017/000000000001.jpg")
    document(root / "coco/instances_trainrem.json", instances("000000000001.jpg"))
    labels(root / "coco/stuffthingmaps/train2017/000000000001.png", np.where(MASK, 1, 255))
    segments = [{"id": 1, "category_id": 3}]
    document(root / "coco/annotations/panoptic_train2017.json", {
        "images": [{"id": 1, "file_name": "000000000001.jpg", **IMAGE}], "categories": [{"id": 3, "name": "box"}],
        "annotations": [{"image_id": 1, "file_name": "000000000001.png", "segments_info": segments}]})  # fmt: skip
    labels(root / "coco/annotations/panoptic_train2017/000000000001.png", MASK[..., None] * [1, 0, 0])


def write_others(root):
    save_image(root / "sa-1b/part/a.jpg")
    document(root / "sa-1b/part/a.json", {"image": {"file_name": "a.jpg", **IMAGE},
                                         "annotations": [{"segmentation": rle.encode(MASK), "bbox": BOX}]})  # fmt: skip
    save_image(root / "partimagenet/images/train/a.jpg")
    document(root / "partimagenet/annotations/train/train.json", instances("a.jpg"))
    save_image(root / "objects365/train/patch0/o.jpg")
    document(root / "objects365/zhiyuan_objv2_train.json", instances("images/v1/patch0/o.jpg", with_masks=False))
    save_image(root / "ReasonSeg/train/r.jpg")
    shape = {"label": "target", "points": np.reshape(POLYGON, (-1, 2)).tolist()}
    document(root / "ReasonSeg/train/r.json", {"text": ["what holds?"], "is_sentence": True, "shapes": [shape]})
    save_image(root / "ADEChallengeData2016/images/training/x.jpg")
    labels(root / "ADEChallengeData2016/annotations/training/x.png", MASK)
    save_image(root / "understanding/images/u.jpg")
    rows = [{"image_id": 1, "file_name": "u.jpg", "split": "train", "kind": kind, "question": "What?", "answer": "Box."}
            for kind in ("caption", "question")]  # fmt: skip
    document(root / "understanding/captions.json", rows)


def write_refer(root):
    name = "COCO_train2014_000000000009.jpg"
    save_image(root / "refer/train2014" / name)
    for dataset in ("refcoco", "refcoco+", "refcocog", "grefcoco"):
        item = {"image_info": {"file_name": name, "id": 9, **IMAGE}, "instruction": [{"sent": "the box", "sent_id": 0}],
                "anns": [{"segmentation": [POLYGON], "bbox": BOX, "iscrowd": 0}]}  # fmt: skip
        document(root / f"refer/res/{dataset}/{dataset}_train.json", [item])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("published") / "data"
    for write in (write_coco, write_others, write_refer):
        write(root)
    return root


def profile_of(name, root, *words):
    """The profile, with its folder `data` where `root` is."""
    plain = load_profile(name, words)
    moved = [f"data.mixture.{source}.root={root / given.root.removeprefix('data').strip('/')}"
             for source, given in plain.data.mixture.items() if given.root]  # fmt: skip
    places = [f"data.root={root / 'refer'}", f"data.images={root / 'refer/train2014'}"]
    return load_profile(name, [*words, *places, *moved])


@pytest.mark.parametrize(("name", "stage"), [(name, stage) for name, stages in STAGES.items() for stage in stages])
def test_every_source_is_found_and_can_be_drawn_from(data, name, stage):
    profile = profile_of(name, data)
    config = profile.stages[stage]
    components = open_mixture(profile, config)
    assert {component.name for component in components} == set(config.mixture or profile.data.mixture)
    for component in components:
        for task in component.tasks:
            (drawn,) = Sampler([component], 1, 1, 0)(0)
            assert drawn.task in component.tasks, task
            mask = drawn.example.mask
            assert mask is None or (mask[MASK].all() and mask.sum() < 1.4 * MASK.sum())  # ReasonSeg counts the edges
    for step in range(20):
        assert len(Sampler(components, 2, 1, 0)(step)) == 2


def test_what_is_missing_is_listed_with_its_weight_and_may_be_left_out(data, tmp_path):
    profile = profile_of("himtok", data)
    profile.data.mixture["objects365"].root = profile.data.mixture["sa-1b"].root = str(tmp_path / "gone")
    with pytest.raises(UserError) as caught:
        open_mixture(profile, profile.stages["align"])
    told = str(caught.value)
    assert told.startswith("2 of 11 sources of the mixture are not there: sa-1b (weight 1000: ")
    assert "objects365 (weight 450: " in told and "data.skip_missing=true" in told
    profile.data.skip_missing = True
    assert len(open_mixture(profile, profile.stages["align"])) == 9
