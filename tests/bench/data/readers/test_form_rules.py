"""The rules of single forms of files: what two of them have in common, and what is particular to one."""

import json

import numpy as np
import pytest
from PIL import Image

from bench.data import rle
from bench.data.cards import open_dataset
from bench.data.readers.places import NotThere
from methods.base import UserError


def essence(example):
    """What a sample is, whatever its number."""
    return (example.image.name, example.image_id, example.expressions, example.box, example.no_target,
            rle.encode(example.mask)["counts"])  # fmt: skip


def test_refer_and_psalm_files_have_the_same_ground_truth(forms, tmp_path):
    roots = [tmp_path / "refer", tmp_path / "psalm"]
    forms.write("refer", roots[0])
    forms.write("psalm", roots[1])
    refer, psalm = (open_dataset("refcoco", root, "val", images=root / "images") for root in roots)
    assert [essence(example) for example in refer] == [essence(example) for example in psalm][:3]
    assert psalm[3].expressions == ("the flat one",)  # an empty segmentation, which refer's files are refused for


def test_what_differs_between_the_two_is_named(forms, tmp_path):
    """gRefCOCO's loader leaves crowds out; the official evaluations, which read PSALM's files, do not."""
    roots = [tmp_path / "refer", tmp_path / "psalm"]
    forms.write("refer", roots[0])
    forms.write("psalm", roots[1])
    (roots[0] / "refcoco").rename(roots[0] / "grefcoco")
    (roots[1] / "res/refcoco/refcoco_val.json").rename(roots[1] / "grefcoco_val.json")
    refer, psalm = (open_dataset("grefcoco", root, "val", images=root / "images") for root in roots)
    assert [example.mask.sum() for example in refer] == [48, 48, 0]
    assert [example.mask.sum() for example in psalm] == [48, 68, 0, 0]
    assert psalm.remarks() == [
        "1 items without instruction are not asked",
        "1 crowd annotations are part of the ground truth, as in the official evaluations",
        "1 items have annotations of nothing but empty segmentations: an empty mask",
    ]


def test_a_dataset_in_both_forms_must_be_chosen_from(forms, tmp_path):
    forms.write("refer", tmp_path)
    (tmp_path / "refcoco_val.json").write_text(json.dumps(forms.documents["psalm"]()))
    with pytest.raises(UserError, match=r"holds refcoco val in several forms \(.*refcoco and .*refcoco_val.json\)"):
        open_dataset("refcoco", tmp_path, "val")
    assert len(open_dataset("refcoco", tmp_path / "refcoco_val.json", "val", images=tmp_path / "images")) == 4
    assert len(open_dataset("refcoco", tmp_path / "refcoco", "val", images=tmp_path / "images")) == 3
    with pytest.raises(
        NotThere, match=r"has no refcoco testB; it may be there as .refs.unc.* or refcoco_<split>.json in"
    ):
        open_dataset("refcoco", tmp_path / "images", "testB")


def test_several_objects_of_an_image_of_sa1b(forms, tmp_path):
    forms.write("sa1b", tmp_path)
    dataset = forms.opened("sa1b", tmp_path, per_image=3)
    assert [example.ref_id for example in dataset] == ["part/a/0", "part/a/1", "part/a/2"]
    assert [example.mask.sum() for example in dataset][::2] == [48, 48] and dataset[1].box is None
    assert dataset.by_image() == [("part/a", [0, 1, 2])]


def test_single_objects_of_coco(forms, tmp_path):
    forms.write("coco", tmp_path)
    objects = forms.opened("coco", tmp_path, ask="object")
    assert [(example.ref_id, example.expressions, example.box) for example in objects] == [
        (7, ("box",), (2, 2, 10, 8)), (9, ("wedge",), (12, 3, 19, 11)),
    ]  # fmt: skip
    assert np.array_equal(objects[0].mask, forms.mask_of(forms.rectangle)) and objects.info(1).category == "wedge"
    with pytest.raises(UserError, match="no ask='all'; choose from class, object"):
        forms.opened("coco", tmp_path, ask="all")


def test_reasonseg_the_smaller_shape_lies_on_top(forms, tmp_path):
    forms.write("reasonseg", tmp_path)
    first, second = open_dataset("reasonseg", tmp_path, "val")
    triangle = np.zeros((16, 20), bool)
    triangle[3:12, 12:20] = first.ignore[3:12, 12:20]
    target = np.zeros((16, 20), bool)
    target[2:9, 2:11], target[4:7, 4:7] = True, False  # edges belong to the shape
    assert np.array_equal(first.mask, target)
    assert first.ignore[4:7, 4:7].all() and first.ignore.sum() == 9 + triangle.sum() and triangle[3, 12:20].all()
    assert (first.facts["kind"], second.facts["kind"]) == (["sentence"] * 2, ["phrase"])
    assert not second.mask.any() and not second.no_target


def test_mask_perception_knows_tokens_options_and_letters(forms, tmp_path):
    forms.write("mask_perception", tmp_path)
    dataset = forms.opened("mask_perception", tmp_path)
    assert [(example.answer, example.facts["options"]) for example in dataset] == [
        ("B", ("a box", "a star")), ("C", ("left", "top", "right")), ("A", ()),
    ]  # fmt: skip
    assert all(example.facts["mask_tokens"] == (7, 0, 1023) for example in dataset)
    assert dataset.remarks() == ["1 questions list no options A., B., ..."]


def test_every_class_can_be_asked(forms, tmp_path):
    forms.write("semantic", tmp_path)
    dataset = forms.opened("semantic", tmp_path, ask="all")
    assert len(dataset) == 20 and [info.category for info in map(dataset.info, range(20))] == list(dataset.classes)
    assert [example.expressions[0] for example in dataset if not example.no_target] == ["bicycle", "person"]
    with pytest.raises(UserError, match="no ask='some'; choose from present, all"):
        forms.opened("semantic", tmp_path, ask="some")


@pytest.mark.parametrize(
    ("card", "image", "label", "listed", "expected"),
    [
        ("ade20k-150", "ADEChallengeData2016/images/validation/a.jpg",
         "ADEChallengeData2016/annotations/validation/a.png", None, ["building", "bed"]),
        ("context-59", "VOCdevkit/VOC2010/JPEGImages/a.jpg", "VOCdevkit/VOC2010/SegmentationClassContext/a.png",
         "VOCdevkit/VOC2010/ImageSets/SegmentationContext/val.txt", ["bag", "boat"]),
        ("voc-20", "VOC2012/JPEGImages/a.jpg", "VOC2012/SegmentationClass/a.png",
         "VOC2012/ImageSets/Segmentation/val.txt", ["bicycle", "car"]),
    ],
)  # fmt: skip
def test_the_layout_of_every_class_benchmark(card, image, label, listed, expected, tmp_path):
    values = np.zeros((16, 20), np.uint8)
    values[2:8, 2:10], values[10:, :], values[0, 0] = 2, {"ade20k-150": 8, "context-59": 8, "voc-20": 7}[card], 255
    for name in filter(None, (image, label, listed)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 16)).save(tmp_path / image)
    Image.fromarray(values).save(tmp_path / label)
    if listed:
        (tmp_path / listed).write_text("a\n")
    dataset = open_dataset(card, tmp_path, "val")
    dataset.check()
    assert [example.expressions[0] for example in dataset] == expected
    first, second = dataset
    assert np.array_equal(first.mask, values == 2) and np.array_equal(second.mask, values == values[10, 0])
    assert np.array_equal(first.ignore, np.isin(values, (0, 255)))


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (
            lambda folder: Image.new("RGB", (20, 16)).save(folder / "SegmentationClass/a.png"),
            "RGB pixels, not one class",
        ),
        (
            lambda folder: Image.new("L", (20, 16), 21).save(folder / "SegmentationClass/a.png"),
            "the class index 21, which is none of the 20 classes",
        ),
        (lambda folder: (folder / "SegmentationClass/a.png").unlink(), "missing file of image a"),
        (lambda folder: (folder / "SegmentationClass/a.png").write_bytes(b"PNG"), "unusable file of image a"),
        (
            lambda folder: (folder / "ImageSets/Segmentation/val.txt").write_text("../../../x"),
            "names the file .*which leaves",
        ),
        (lambda folder: Image.new("L", (20, 16)).save(folder / "SegmentationClass/a.png"), "nothing of split 'val'"),
    ],
)
def test_label_files_that_cannot_be_used(forms, spoil, complaint, tmp_path):
    forms.write("semantic", tmp_path)
    spoil(tmp_path / "VOCdevkit/VOC2012")
    with pytest.raises(UserError, match=complaint):
        forms.opened("semantic", tmp_path)


def test_boxes_that_cannot_be_pixels(forms, tmp_path):
    forms.write("rec", tmp_path)
    lines = [row | {"bbox": [100, 200, 900, 800]} for row in forms.documents["rec"]()]
    (tmp_path / "rec/refcoco_val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    with pytest.raises(UserError, match=r"the boxes look like x1, y1, x2, y2 in 0..1000; write them as x1, y1"):
        forms.opened("rec", tmp_path)
