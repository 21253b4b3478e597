"""Every form of files: a small dataset of ours in the original form is read back exactly, and refused when broken."""

import copy
import json

import numpy as np
import pytest

from bench.data.cards import open_dataset
from bench.data.contact_sheet import contact_sheet
from bench.data.readers import READERS
from bench.data.readers.places import NotThere
from methods.base import UserError

NAMES = ("refer", "psalm", "rec", "mask_perception", "reasonseg", "semantic", "coco", "sa1b", "panoptic")
FILES = (
    "psalm",
    "rec",
    "mask_perception",
    "reasonseg",
    "panoptic",
    "coco",
    "sa1b",
)  # forms with a document that can be malformed


def test_every_reader_has_its_form(forms):
    """Those without masks, and training rows, have tests of their own."""
    assert {*NAMES, "captions", "conversations", "detection", "folder", "pairs"} == READERS.keys()
    assert forms.names.keys() == set(NAMES)


@pytest.mark.parametrize("form", NAMES)
def test_a_form_is_read_back_exactly(forms, form, tmp_path):
    expected = forms.expected[form]
    forms.write(form, tmp_path)
    dataset = forms.opened(form, tmp_path)
    dataset.check()
    assert type(dataset) is READERS[form] and len(dataset) == len(expected)
    for index, (ref_id, image, expressions, positions, mask, ignore, around, no_target) in enumerate(expected):
        example, info = dataset[index], dataset.info(index)
        assert (example.ref_id, example.image.name, example.expressions) == (ref_id, image, expressions)
        assert (info.ref_id, info.expressions, info.positions) == (ref_id, expressions, positions)
        assert example.image.exists() and example.image_id == info.image_id
        if (form, ref_id) != ("reasonseg", "a"):  # whose shapes overlap: a test of their own
            assert np.array_equal(example.mask, mask) and np.array_equal(example.ignore, ignore)
        assert example.box == around and example.no_target == info.no_target == no_target
    assert {path.name for path in dataset.image_paths()} == {row[1] for row in expected}
    assert len(dataset.with_targets()) == sum(not row[-1] for row in expected)
    assert contact_sheet(list(dataset)).height > 256  # what `genseg data show` writes
    assert len(dataset.digest()) == 16 and dataset.digest() == forms.opened(form, tmp_path).digest()
    assert len(forms.opened(form, tmp_path, limit=1)) == 1


@pytest.mark.parametrize("form", NAMES)
def test_the_ground_truth_of_a_form_needs_no_images(forms, form, tmp_path):
    expected = forms.expected[form]
    forms.write(form, tmp_path)
    dataset = forms.opened(form, tmp_path)
    before = [example.mask for example in dataset]
    for path in [*tmp_path.rglob("*.jpg"), *tmp_path.rglob("images/*.png")]:
        if form != "reasonseg":  # whose files record no sizes
            path.unlink()
    without = open_dataset(forms.names[form], tmp_path, dataset.split, with_images=False)
    without.check()
    assert all(np.array_equal(mask, example.mask) for mask, example in zip(before, without, strict=True))
    assert len(without) == len(expected)


@pytest.mark.parametrize("form", NAMES)
def test_a_form_that_is_not_there(forms, form, tmp_path):
    with pytest.raises(NotThere) as caught:
        forms.opened(form, tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    forms.write(form, tmp_path)
    next(path for path in sorted(tmp_path.rglob("*")) if path.name == forms.expected[form][0][1]).unlink()
    with pytest.raises(UserError, match=r"a\.(png|jpg): missing image of .*; download it or set the folder"):
        forms.opened(form, tmp_path).check()


DELETE = object()
MALFORMED = [
    ("psalm", (), {}, "not a list of items"),
    ("psalm", (0,), 7, r"item 0 has no usable image_info"),
    ("psalm", (0, "image_info", "height"), "16", "item 0 has no usable height"),
    ("psalm", (0, "image_info", "file_name"), DELETE, "item 0 has no usable file_name"),
    ("psalm", (0, "image_info", "file_name"), "../a.png", "sample 0 of .* which leaves .*correct the path"),
    ("psalm", (0, "instruction", 0), {"sent": 3}, "item 0 has no usable sent"),
    ("psalm", (0, "anns", 0, "segmentation"), DELETE, "item 0 has no usable segmentation"),
    ("psalm", (0, "anns", 0, "segmentation"), [[1, 2]], "sample 0 has an unusable segmentation .a polygon needs"),
    ("psalm", (2, "anns", 1, "segmentation", "counts"), [1, 2], "sample 2 has an unusable segmentation .RLE counts"),
    ("psalm", (2, "anns", 1, "segmentation", "size"), [9, 9], r"RLE of size \[9, 9\] for an image of \[16, 20\]"),
    ("rec", (0, "bbox"), [2, 2, 1, 9], r"line 1: bbox \[2, 2, 1, 9\] is not x1, y1, x2, y2 in pixels"),
    ("rec", (0, "bbox"), [1, 2, 3], "line 1: bbox"),
    ("rec", (0, "width"), 0, "line 1: no usable width"),
    ("rec", (0, "sent"), None, "line 1: no usable sent"),
    ("rec", (0, "image"), "../../a.png", "leaves .*correct the path"),
    ("mask_perception", (), {}, "not a list of questions"),
    ("mask_perception", (0, "answer"), "D", "question 0 has the answer 'D', which is the letter of no option"),
    ("mask_perception", (0, "answer"), "the box", "question 0 has the answer 'the box'"),
    ("mask_perception", (1, "question"), "Which?", "question 1 has no mask span"),
    ("mask_perception", (1, "image"), DELETE, "question 1 has no usable image"),
    ("reasonseg", ("text",), "one", "has no usable text"),
    ("reasonseg", ("shapes", 0, "points"), [], "has a shape without points"),
    ("reasonseg", ("shapes", 1, "points", 0), [1, "2"], "has a point that is not two numbers"),
    ("reasonseg", ("shapes", 1, "points", 0), [1, 1e300], "has a point that is not two numbers"),
    ("reasonseg", ("shapes", 1, "label"), DELETE, "has no usable label"),
    ("panoptic", ("annotations", 0, "image_id"), 7, "an annotation names image 7, which is not listed"),
    ("panoptic", ("annotations", 0, "segments_info", 0, "category_id"), 7, "a segment of category 7, which is not"),
    ("panoptic", ("annotations", 0, "file_name"), "../../a.png", "names the file .*, which leaves .*panoptic_val2017"),
    ("panoptic", ("annotations", 0, "file_name"), "b.png", "b.png: missing file of sample 4/"),
    ("panoptic", ("images", 0, "width"), 21, "a.png: is not of the size that panoptic_val2017.json records"),
    ("coco", ("annotations", 0, "category_id"), 7, "annotation 7 is of an image or category that is not listed"),
    ("coco", ("annotations", 0, "segmentation"), DELETE, "no usable segmentation"),
    ("coco", ("annotations", 0, "segmentation"), [[1, 2]], "sample 97/box has an unusable segmentation"),
    ("coco", ("images", 0, "height"), None, "no usable height"),
    ("sa1b", ("annotations",), [], "a.json: has no object"),
    ("sa1b", ("annotations", 0, "segmentation", "counts"), "0", "a.json: has RLE counts"),
    ("sa1b", ("image", "file_name"), "../a.jpg", "object 0 of .*a.json names the file .*, which leaves"),
    ("panoptic", ("categories",), None, "no usable categories"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "place", "value", "complaint"), MALFORMED)
def test_a_malformed_file_is_refused_in_a_sentence(forms, form, place, value, complaint, tmp_path):
    forms.write(form, tmp_path)
    document = {"": copy.deepcopy(forms.documents[form]())}
    record, keys = document, ("", *place)
    for key in keys[:-1]:
        record = record[key]
    if value is DELETE:
        del record[keys[-1]]
    else:
        record[keys[-1]] = value
    rows = document[""]
    text = "".join(json.dumps(row) + "\n" for row in rows) if form == "rec" else json.dumps(rows)
    (tmp_path / forms.files[form]).write_text(text)
    with pytest.raises(UserError, match=complaint) as caught:
        forms.opened(form, tmp_path).check()
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize("content", [b"", b"[", b"\xff\xfe", b'"x"', b"[[1]]", b"7"])
def test_files_of_another_kind(forms, form, content, tmp_path):
    forms.write(form, tmp_path)
    (tmp_path / forms.files[form]).write_bytes(content)
    with pytest.raises(UserError, match=forms.files[form].split("/")[-1]) as caught:
        forms.opened(form, tmp_path).check()
    assert "\n" not in str(caught.value)
