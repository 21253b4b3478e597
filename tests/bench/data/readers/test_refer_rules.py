"""The rules by which released annotations are read: what is left out and counted, and what is refused."""

import json
import pickle

import pytest
from PIL import Image

from bench.data.cards import of_label, open_dataset
from bench.data.readers.refer import ReferDataset
from methods.base import UserError

RECTANGLE = [[2, 2, 10, 2, 10, 8, 2, 8]]


def annotation(number, **more):
    return {"id": number, "image_id": 7, "category_id": 1, "bbox": [2, 2, 8, 6], "area": 48, "iscrowd": 0,
            "segmentation": RECTANGLE} | more  # fmt: skip


def referent(number, ann_id, *sentences, **more):
    sentences = [{"sent": text} for text in (sentences or ("it",))]
    return {"ref_id": number, "ann_id": ann_id, "image_id": 7, "split": "val", "sentences": sentences} | more


@pytest.fixture
def write(tmp_path):
    """write(annotations, refs, **image) -> the folder of a dataset with one image of 20 x 16 pixels."""

    def written(annotations, refs, name="refs(unc).json", **image):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (20, 16), "gray").save(tmp_path / "images" / "a.png")
        image = {"id": 7, "file_name": "a.png", "width": 20, "height": 16} | image
        (tmp_path / "instances.json").write_text(json.dumps(
            {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "dog"}]}
        ))  # fmt: skip
        (tmp_path / name).write_text(json.dumps(refs))
        return tmp_path

    return written


def test_no_target_is_what_the_dataset_says(write):
    flat = annotation(1, segmentation=[[2, 2, 6, 2, 10, 2]], bbox=[2, 2, 8, 1])
    dataset = ReferDataset(write([flat], [referent(1, 1), referent(2, [-1]), referent(3, [])]), "val")
    dataset.check()
    assert [example.no_target for example in dataset] == [False, True, True]
    assert [dataset.info(index).no_target for index in range(3)] == [False, True, True]
    assert not dataset[0].mask.any() and dataset[0].box


def test_grefcoco_leaves_crowds_out_and_refcoco_does_not(write):
    crowd = annotation(2, iscrowd=1, segmentation={"size": [16, 20], "counts": [160, 160]}, bbox=[10, 0, 10, 16])
    root = write([annotation(1), crowd], [referent(1, [1, 2]), referent(2, [2])], "grefs(unc).json")
    by_card = open_dataset("grefcoco", root, "val")
    assert [example.mask.sum() for example in by_card] == [48, 0]
    assert by_card[0].box == (2, 2, 10, 8) and by_card[1].box is None
    assert not by_card[1].no_target and len(by_card.with_targets()) == 1
    assert len(by_card.objects(7)) == 1
    (root / "grefs(unc).json").rename(root / "refs(unc).json")
    assert [example.mask.sum() for example in open_dataset("refcoco", root, "val")] == [48 + 160, 160]


@pytest.mark.parametrize("size", [(21, 16), (20, 12), (16, 20)])
def test_the_recorded_size_is_the_frame_of_the_ground_truth(write, size):
    width, height = size
    root = write([annotation(1)], [referent(1, 1), referent(2, 1)], width=width, height=height)
    dataset = ReferDataset(root, "val")
    dataset.check()
    example = dataset[0]
    assert example.image.size == size and example.mask.shape == (height, width)
    assert dataset[1].image is example.image  # one pass of the vision tower serves both
    assert dataset.file_size(7) == (16, 20)
    assert dataset.remarks() == [f"1 of 1 images have another size than recorded and are resized to it (a.png: 20x16, "
                                 f"recorded {width}x{height})"]  # fmt: skip
    assert ReferDataset(root, "val", opens_images=False).remarks() == []


@pytest.mark.parametrize(
    "fault",
    [{"segmentation": [[1, 1, 3, 3]]}, {"segmentation": None}, {"bbox": None}, {"category_id": None},
     {"segmentation": {"size": [9, 9], "counts": [81]}}],
)  # fmt: skip
def test_an_unusable_annotation_counts_only_where_it_is_needed(write, fault):
    bad = annotation(2) | fault
    dataset = ReferDataset(write([annotation(1), bad], [referent(1, 1)]), "val")
    dataset.check()
    assert len(dataset.objects(7)) == 1
    assert "1 unusable annotations that no expression names are left out (2: " in dataset.remarks()[0]
    root = write([annotation(1), bad], [referent(1, 1), referent(2, [1, 2])])
    with pytest.raises(UserError, match=r"annotation 2 .*(unusable|no usable)"):
        ReferDataset(root, "val").check()


def test_only_what_is_asked_must_be_usable(write):
    dataset = ReferDataset(
        write([annotation(1), annotation(2, segmentation=[])], [referent(1, 1), referent(2, 2)]), "val"
    )
    dataset.check([0])
    with pytest.raises(UserError, match="referent 2 has an unusable segmentation"):
        dataset.check()


@pytest.mark.parametrize(
    ("bbox", "complaint"),
    [
        ([50, 60, 90, 120], "looks like x1, y1, x2, y2 in pixels"),
        ([0.25, 0.3, 0.2, 0.3], "looks like x, y, width, height in 0..1"),
        ([70, 90, 40, 60], "looks like centre x, centre y, width, height in pixels"),
    ],
)
def test_boxes_of_annotations_in_another_form(write, bbox, complaint):
    shape = annotation(1, segmentation=[[50, 60, 90, 60, 90, 120, 50, 120]], bbox=bbox)
    dataset = ReferDataset(write([shape], [referent(5, 1)], width=200, height=200), "val")
    with pytest.raises(UserError, match=rf"the bbox .* of annotation 1 \(referent 5\) {complaint}; write x, y, width"):
        dataset.check()


def test_small_deviations_of_a_box_are_usual(write):
    for bbox in ([2.4, 1.7, 7.1, 6.6], [0, 0, 12, 10]):
        dataset = ReferDataset(write([annotation(1, bbox=bbox)], [referent(1, 1)]), "val")
        dataset.check()
        assert dataset.remarks() == []
    dataset = ReferDataset(write([annotation(1, bbox=[12, 9, 8, 6])], [referent(1, 1)]), "val")
    dataset.check()
    assert dataset.remarks() == ["1 annotated boxes do not lie around their segmentation (annotation 1)"]


def test_sentences_without_words_are_not_asked(write):
    refs = [referent(1, 1, "", "the dog", " \t", "it"), referent(2, 1, "\u2003"), referent(3, 1, "all")]
    dataset = ReferDataset(write([annotation(1)], refs), "val")
    assert [dataset.info(index).expressions for index in range(2)] == [("the dog", "it"), ("all",)]
    assert dataset.info(0).positions == (1, 3)
    assert dataset[0].expressions == ("the dog", "it")
    assert dataset.remarks() == ["3 expressions without words are not asked"]
    with pytest.raises(UserError, match="no sentence of split 'val' has any words"):
        ReferDataset(write([annotation(1)], [referent(1, 1, "")]), "val")


def test_a_stale_twin_is_refused(write):
    root = write([annotation(1)], [referent(1, 1)])
    (root / "refs(unc).p").write_bytes(pickle.dumps([referent(1, 1)]))
    with pytest.raises(UserError, match=r"has the referents twice \(refs\(unc\).json, refs\(unc\).p\)"):
        ReferDataset(root, "val", split_by="unc")
    inner = root / "refcoco"
    inner.mkdir()
    (root / "refs(unc).p").rename(inner / "refs(unc).p")
    (inner / "instances.json").write_bytes((root / "instances.json").read_bytes())
    with pytest.raises(UserError, match="both it and .*refcoco hold a dataset"):
        ReferDataset(root, "val", name="refcoco")


def test_a_division_into_splits_can_be_chosen(write):
    root = write([annotation(1)], [referent(1, 1)], "refs(google).json")
    with pytest.raises(
        UserError, match=r"has no refs\(umd\).json or .p, but refs\(google\).json; choose with split_by=g"
    ):
        open_dataset("refcocog", root, "val")
    assert open_dataset("refcocog", root, "val", split_by="google").name == "refcocog-google"
    assert of_label("refcocog-google") == ("refcocog", "google") and of_label("refcocog") == ("refcocog", "")
    (root / "refs(google).json").rename(root / "refs(umd).json")
    for division in ("umd", "", None):
        assert open_dataset("refcocog", root, "val", split_by=division).name == "refcocog"


def test_masks_of_samples_are_not_decoded_to_know_them(write, monkeypatch):
    dataset = ReferDataset(write([annotation(1)], [referent(1, 1, "a", "b")]), "val")
    monkeypatch.setattr(ReferDataset, "_mask", None)
    assert dataset.info(0).expressions == ("a", "b") and list(dataset.texts()) == ["a", "b"]
    assert dataset.by_image() == [(7, [0])]
    dataset.check()
