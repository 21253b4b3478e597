"""Every form of files: a small dataset of ours in the original form is read back exactly, and refused when broken.

Two images of 20 x 16 and 24 x 12 pixels with a rectangle and a triangle, and what each form can say about them.
"""

import copy
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from bench.data import rle
from bench.data.cards import load_card, open_dataset
from bench.data.readers import READERS
from bench.data.readers.places import NotThere
from bench.refmoji.sheet import sheet
from methods.base import UserError

SIZES = {"a.png": (20, 16), "b.png": (24, 12)}  # width, height
RECTANGLE, TRIANGLE = [2, 2, 10, 2, 10, 8, 2, 8], [12, 3, 19, 3, 12, 11]
SPAN = "<|mt_start|><|mt_7|><|mt_0|><|mt_1023|><|mt_end|>"


def mask_of(*polygons, image="a.png"):
    width, height = SIZES[image]
    return rle.rasterize(list(polygons), height, width) if polygons else np.zeros((height, width), bool)


def box(x, y, right, bottom):
    """As COCO writes it."""
    return [x, y, right - x, bottom - y]


def images(folder, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, size) in enumerate(SIZES.items()):
        Image.new("RGB", size, (90 * number, 50, 50)).save(folder / name.replace(".png", suffix))


def psalm_items():
    def item(image, sentences, *anns):
        width, height = SIZES[image]
        return {"image_info": {"file_name": image, "height": height, "width": width, "id": ord(image[0])},
                "instruction": [{"sent": text, "sent_id": 9} for text in sentences], "anns": list(anns)}  # fmt: skip

    rectangle = {"segmentation": [RECTANGLE], "bbox": box(2, 2, 10, 8), "iscrowd": 0}
    runs = {"segmentation": {"size": [16, 20], "counts": [300, 20]}, "bbox": box(18, 12, 20, 16), "iscrowd": 1}
    return [item("a.png", ["the box", " ", "it"], rectangle), item("a.png", [], rectangle),
            item("a.png", ["both"], rectangle, runs), item("b.png", ["a giraffe", "two"]),
            item("b.png", ["the flat one"], {"segmentation": [], "bbox": box(1, 1, 5, 2)})]  # fmt: skip


def refer_files():
    annotations = [{"id": 1, "image_id": 97, "category_id": 3, "segmentation": [RECTANGLE], "bbox": box(2, 2, 10, 8)},
                   {"id": 2, "image_id": 97, "category_id": 3, "iscrowd": 1, "bbox": box(18, 12, 20, 16),
                    "segmentation": {"size": [16, 20], "counts": [300, 20]}}]  # fmt: skip
    instances = {"annotations": annotations, "categories": [{"id": 3, "name": "shape"}],
                 "images": [{"id": ord(name[0]), "file_name": name, "width": w, "height": h}
                            for name, (w, h) in SIZES.items()]}  # fmt: skip
    refs = [(97, [1], ["the box", " ", "it"]), (97, [1, 2], ["both"]), (98, [-1], ["a giraffe", "two"])]
    return instances, [
        {"ref_id": 50 + number, "ann_id": ids, "image_id": image, "split": "val",
         "sentences": [{"sent": text} for text in texts]}
        for number, (image, ids, texts) in enumerate(refs)
    ]  # fmt: skip


def write_refer(root):
    images(root / "images")
    instances, refs = refer_files()
    (root / "refcoco").mkdir()
    (root / "refcoco/instances.json").write_text(json.dumps(instances))
    (root / "refcoco/refs(unc).p").write_bytes(pickle.dumps(refs, 2))


def write_psalm(root):
    images(root / "images")
    (root / "res/refcoco").mkdir(parents=True)
    (root / "res/refcoco/refcoco_val.json").write_text(json.dumps(psalm_items()))


def rec_lines():
    row = {"image": "data/coco/images/a.png", "sent": "  the box", "bbox": [2, 2.5, 10, 8], "height": 16, "width": 20}
    return [row, row | {"sent": " "}, row | {"image": "data/coco/images/b.png", "bbox": [0, 1, 23, 9.5],
                                             "height": 12, "width": 24}]  # fmt: skip


def write_rec(root):
    images(root / "coco/images")
    (root / "rec").mkdir()
    (root / "rec/refcoco_val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rec_lines()))


def perception_items():
    row = {"image": "data/images/a.png", "question": f"What is in {SPAN}?\nA. a box\nB. a star\nAnswer with a letter.",
           "answer": "B. a star"}  # fmt: skip
    return [row, row | {"question": f"Where is {SPAN}? A. left B. top C. right", "answer": "c"},
            row | {"question": f"What is {SPAN}?", "answer": "A"}]  # fmt: skip


def write_perception(root):
    images(root / "images")
    (root / "Mask_Perception").mkdir()
    (root / "Mask_Perception/mask_perception.json").write_text(json.dumps(perception_items()))


def pairs(flat):
    return np.reshape(flat, (-1, 2)).tolist()


def reason_file():
    shapes = [("ignore", [4, 4, 6, 4, 6, 6, 4, 6]), ("target", RECTANGLE), ("flag", TRIANGLE), ("ignore", TRIANGLE)]
    return {"text": ["What holds things?", "", "the box"], "is_sentence": True,
            "shapes": [{"label": label, "points": pairs(points)} for label, points in shapes]}  # fmt: skip


def write_reason(root):
    images(root / "ReasonSeg/val", ".jpg")
    (root / "ReasonSeg/val/a.json").write_text(json.dumps(reason_file()))
    bare = {"text": ["nothing"], "is_sentence": False, "shapes": []}
    (root / "ReasonSeg/val/b.json").write_text(json.dumps(bare))


def labels():
    values = np.zeros((16, 20), np.uint8)
    values[2:8, 2:10], values[10:, :], values[0, 0] = 15, 2, 255
    return values


def write_semantic(root):
    folder = root / "VOCdevkit/VOC2012"
    images(folder / "JPEGImages", ".jpg")
    for name in ("SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    (folder / "ImageSets/Segmentation/val.txt").write_text("a\n")
    index_map = Image.fromarray(labels()).convert("P")
    index_map.putdata(labels().ravel())
    index_map.save(folder / "SegmentationClass/a.png")


def segments():
    """Segment 258 in the middle, 3 and 65537 below, void in a corner."""
    numbers = np.full((16, 20), 3)
    numbers[2:8, 2:10], numbers[12:, :], numbers[0, 0] = 258, 65537, 0
    return numbers


def panoptic_file():
    infos = [{"id": 258, "category_id": 1}, {"id": 3, "category_id": 9}, {"id": 65537, "category_id": 9, "iscrowd": 1}]
    return {"images": [{"id": 4, "file_name": "a.jpg", "height": 16, "width": 20}],
            "categories": [{"id": 1, "name": "person"}, {"id": 9, "name": "wall-other-merged"}],
            "annotations": [{"image_id": 4, "file_name": "a.png", "segments_info": infos}]}  # fmt: skip


def write_panoptic(root):
    images(root / "val2017", ".jpg")
    (root / "annotations/panoptic_val2017").mkdir(parents=True)
    (root / "annotations/panoptic_val2017.json").write_text(json.dumps(panoptic_file()))
    colours = segments()[..., None] // [1, 256, 65536] % 256
    Image.fromarray(np.uint8(colours)).save(root / "annotations/panoptic_val2017/a.png")


def coco_file():
    width, height = SIZES["a.png"]
    square = {"id": 7, "image_id": 97, "category_id": 3, "segmentation": [RECTANGLE], "bbox": box(2, 2, 10, 8)}
    crowd = {"id": 8, "image_id": 97, "category_id": 3, "iscrowd": 1, "bbox": box(18, 12, 20, 16),
             "segmentation": {"size": [16, 20], "counts": [300, 20]}}  # fmt: skip
    wedge = {"id": 9, "image_id": 97, "category_id": 5, "segmentation": [TRIANGLE], "bbox": box(12, 3, 19, 11)}
    return {"images": [{"id": 97, "file_name": "a.jpg", "height": height, "width": width}],
            "annotations": [square, wedge, crowd],
            "categories": [{"id": 3, "name": "box"}, {"id": 5, "name": "wedge"}]}  # fmt: skip


def write_coco(root):
    images(root / "val2017", ".jpg")
    (root / "annotations").mkdir()
    (root / "annotations/instances_val2017.json").write_text(json.dumps(coco_file()))


BOTH = mask_of(RECTANGLE) | (np.arange(320).reshape(20, 16).T >= 300)
INNER = np.zeros((16, 20), bool)
INNER[4:7, 4:7] = True
LETTERED = {"mask_tokens": (7, 0, 1023)}
# card, what writes it, options, and of each sample: ref_id, image, expressions, positions, mask, ignore, box, no_target
FORMS = {
    "refer": ("refcoco", write_refer, {"images": "images"}, [
        (50, "a.png", ("the box", "it"), (0, 2), mask_of(RECTANGLE), None, (2, 2, 10, 8), False),
        (51, "a.png", ("both",), (0,), BOTH, None, (2, 2, 20, 16), False),
        (52, "b.png", ("a giraffe", "two"), (0, 1), mask_of(image="b.png"), None, None, True)]),
    "psalm": ("refcoco", write_psalm, {"images": "images"}, [
        (0, "a.png", ("the box", "it"), (0, 2), mask_of(RECTANGLE), None, (2, 2, 10, 8), False),
        (2, "a.png", ("both",), (0,), BOTH, None, (2, 2, 20, 16), False),
        (3, "b.png", ("a giraffe", "two"), (0, 1), mask_of(image="b.png"), None, None, True),
        (4, "b.png", ("the flat one",), (0,), mask_of(image="b.png"), None, (1, 1, 5, 2), False)]),
    "rec": ("refcoco-rec", write_rec, {"images": "coco"}, [
        (0, "a.png", ("  the box",), (0,), None, None, (2, 2.5, 10, 8), False),
        (2, "b.png", ("  the box",), (0,), None, None, (0, 1, 23, 9.5), False)]),
    "mask_perception": ("mask-perception", write_perception, {"images": "images"}, [
        (number, "a.png", (item["question"],), (0,), None, None, None, False)
        for number, item in enumerate(perception_items())]),
    "reasonseg": ("reasonseg", write_reason, {}, [
        ("a", "a.jpg", ("What holds things?", "the box"), (0, 2), None, None, None, False),
        ("b", "b.jpg", ("nothing",), (0,), mask_of(image="b.png"), None, None, False)]),
    "semantic": ("voc-20", write_semantic, {}, [
        ("a/bicycle", "a.jpg", ("bicycle",), (0,), labels() == 2, np.isin(labels(), (0, 255)), None, False),
        ("a/person", "a.jpg", ("person",), (0,), labels() == 15, np.isin(labels(), (0, 255)), None, False)]),
    "coco": ("coco", write_coco, {"split": "val"}, [
        ("97/box", "a.jpg", ("box",), (0,), BOTH, None, (2, 2, 20, 16), False),
        ("97/wedge", "a.jpg", ("wedge",), (0,), mask_of(TRIANGLE), None, (12, 3, 19, 11), False)]),
    "panoptic": ("coco-panoptic", write_panoptic, {"split": "val"}, [
        ("4/person", "a.jpg", ("person",), (0,), segments() == 258, segments() == 0, None, False),
        ("4/wall-other-merged", "a.jpg", ("wall",), (0,), np.isin(segments(), (3, 65537)), segments() == 0, None,
         False)]),
}  # fmt: skip


def opened(form, root, **options):
    name, _, given, _ = FORMS[form]
    given = {"split": load_card(name).defaults["split"]} | given | options
    if "images" in given:
        given["images"] = root / given["images"]
    return open_dataset(name, root, **given)


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_read_back_exactly(form, tmp_path):
    _, write, _, expected = FORMS[form]
    write(tmp_path)
    dataset = opened(form, tmp_path)
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
    assert sheet(list(dataset)).height > 256  # what `genseg data show` writes
    assert len(dataset.digest()) == 16 and dataset.digest() == opened(form, tmp_path).digest()
    assert len(opened(form, tmp_path, limit=1)) == 1


@pytest.mark.parametrize("form", FORMS)
def test_the_ground_truth_of_a_form_needs_no_images(form, tmp_path):
    _, write, _, expected = FORMS[form]
    write(tmp_path)
    dataset = opened(form, tmp_path)
    before = [example.mask for example in dataset]
    for path in [*tmp_path.rglob("*.jpg"), *tmp_path.rglob("images/*.png")]:
        if form != "reasonseg":  # whose files record no sizes
            path.unlink()
    without = open_dataset(FORMS[form][0], tmp_path, dataset.split, with_images=False)
    without.check()
    assert all(np.array_equal(mask, example.mask) for mask, example in zip(before, without, strict=True))
    assert len(without) == len(expected)


@pytest.mark.parametrize("form", FORMS)
def test_a_form_that_is_not_there(form, tmp_path):
    with pytest.raises(NotThere) as caught:
        opened(form, tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    FORMS[form][1](tmp_path)
    next(path for path in sorted(tmp_path.rglob("*")) if path.name == FORMS[form][3][0][1]).unlink()
    with pytest.raises(UserError, match=r"a\.(png|jpg): missing image of .*; download it or set the folder"):
        opened(form, tmp_path).check()


DELETE = object()
A_FILE = {"psalm": "res/refcoco/refcoco_val.json", "rec": "rec/refcoco_val.jsonl",
          "mask_perception": "Mask_Perception/mask_perception.json", "reasonseg": "ReasonSeg/val/a.json",
          "panoptic": "annotations/panoptic_val2017.json", "coco": "annotations/instances_val2017.json"}  # fmt: skip
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
    ("panoptic", ("categories",), None, "no usable categories"),
]  # fmt: skip
DOCUMENTS = {
    "psalm": psalm_items,
    "rec": rec_lines,
    "mask_perception": perception_items,
    "reasonseg": reason_file,
    "panoptic": panoptic_file,
    "coco": coco_file,
}


@pytest.mark.parametrize(("form", "place", "value", "complaint"), MALFORMED)
def test_a_malformed_file_is_refused_in_a_sentence(form, place, value, complaint, tmp_path):
    FORMS[form][1](tmp_path)
    document = {"": copy.deepcopy(DOCUMENTS[form]())}
    record, keys = document, ("", *place)
    for key in keys[:-1]:
        record = record[key]
    if value is DELETE:
        del record[keys[-1]]
    else:
        record[keys[-1]] = value
    rows = document[""]
    text = "".join(json.dumps(row) + "\n" for row in rows) if form == "rec" else json.dumps(rows)
    (tmp_path / A_FILE[form]).write_text(text)
    with pytest.raises(UserError, match=complaint) as caught:
        opened(form, tmp_path).check()
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("form", A_FILE)
@pytest.mark.parametrize("content", [b"", b"[", b"\xff\xfe", b'"x"', b"[[1]]", b"7"])
def test_files_of_another_kind(form, content, tmp_path):
    FORMS[form][1](tmp_path)
    (tmp_path / A_FILE[form]).write_bytes(content)
    with pytest.raises(UserError, match=A_FILE[form].split("/")[-1]) as caught:
        opened(form, tmp_path).check()
    assert "\n" not in str(caught.value)


def essence(example):
    """What a sample is, whatever its number."""
    return (example.image.name, example.image_id, example.expressions, example.box, example.no_target,
            rle.encode(example.mask)["counts"])  # fmt: skip


def test_refer_and_psalm_files_have_the_same_ground_truth(tmp_path):
    roots = [tmp_path / "refer", tmp_path / "psalm"]
    write_refer(roots[0])
    write_psalm(roots[1])
    refer, psalm = (open_dataset("refcoco", root, "val", images=root / "images") for root in roots)
    assert [essence(example) for example in refer] == [essence(example) for example in psalm][:3]
    assert psalm[3].expressions == ("the flat one",)  # an empty segmentation, which refer's files are refused for


def test_what_differs_between_the_two_is_named(tmp_path):
    """gRefCOCO's loader leaves crowds out; the official evaluations, which read PSALM's files, do not."""
    roots = [tmp_path / "refer", tmp_path / "psalm"]
    write_refer(roots[0])
    write_psalm(roots[1])
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


def test_a_dataset_in_both_forms_must_be_chosen_from(tmp_path):
    write_refer(tmp_path)
    (tmp_path / "refcoco_val.json").write_text(json.dumps(psalm_items()))
    with pytest.raises(UserError, match=r"holds refcoco val in several forms \(.*refcoco and .*refcoco_val.json\)"):
        open_dataset("refcoco", tmp_path, "val")
    assert len(open_dataset("refcoco", tmp_path / "refcoco_val.json", "val", images=tmp_path / "images")) == 4
    assert len(open_dataset("refcoco", tmp_path / "refcoco", "val", images=tmp_path / "images")) == 3
    with pytest.raises(
        NotThere, match=r"has no refcoco testB; it may be there as .refs.unc.* or refcoco_<split>.json in"
    ):
        open_dataset("refcoco", tmp_path / "images", "testB")


def test_single_objects_of_coco(tmp_path):
    write_coco(tmp_path)
    objects = opened("coco", tmp_path, ask="object")
    assert [(example.ref_id, example.expressions, example.box) for example in objects] == [
        (7, ("box",), (2, 2, 10, 8)), (9, ("wedge",), (12, 3, 19, 11)),
    ]  # fmt: skip
    assert np.array_equal(objects[0].mask, mask_of(RECTANGLE)) and objects.info(1).category == "wedge"
    with pytest.raises(UserError, match="no ask='all'; choose from class, object"):
        opened("coco", tmp_path, ask="all")


def test_reasonseg_the_smaller_shape_lies_on_top(tmp_path):
    write_reason(tmp_path)
    first, second = open_dataset("reasonseg", tmp_path, "val")
    triangle = np.zeros((16, 20), bool)
    triangle[3:12, 12:20] = first.ignore[3:12, 12:20]
    target = np.zeros((16, 20), bool)
    target[2:9, 2:11], target[4:7, 4:7] = True, False  # edges belong to the shape
    assert np.array_equal(first.mask, target)
    assert first.ignore[4:7, 4:7].all() and first.ignore.sum() == 9 + triangle.sum() and triangle[3, 12:20].all()
    assert (first.facts["kind"], second.facts["kind"]) == (["sentence"] * 2, ["phrase"])
    assert not second.mask.any() and not second.no_target


def test_mask_perception_knows_tokens_options_and_letters(tmp_path):
    write_perception(tmp_path)
    dataset = opened("mask_perception", tmp_path)
    assert [(example.answer, example.facts["options"]) for example in dataset] == [
        ("B", ("a box", "a star")), ("C", ("left", "top", "right")), ("A", ()),
    ]  # fmt: skip
    assert all(example.facts["mask_tokens"] == (7, 0, 1023) for example in dataset)
    assert dataset.remarks() == ["1 questions list no options A., B., ..."]


def test_every_class_can_be_asked(tmp_path):
    write_semantic(tmp_path)
    dataset = opened("semantic", tmp_path, ask="all")
    assert len(dataset) == 20 and [info.category for info in map(dataset.info, range(20))] == list(dataset.classes)
    assert [example.expressions[0] for example in dataset if not example.no_target] == ["bicycle", "person"]
    with pytest.raises(UserError, match="no ask='some'; choose from present, all"):
        opened("semantic", tmp_path, ask="some")


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
def test_label_files_that_cannot_be_used(spoil, complaint, tmp_path):
    write_semantic(tmp_path)
    spoil(tmp_path / "VOCdevkit/VOC2012")
    with pytest.raises(UserError, match=complaint):
        opened("semantic", tmp_path)


def test_boxes_that_cannot_be_pixels(tmp_path):
    write_rec(tmp_path)
    lines = [row | {"bbox": [100, 200, 900, 800]} for row in rec_lines()]
    (tmp_path / "rec/refcoco_val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    with pytest.raises(UserError, match=r"the boxes look like x1, y1, x2, y2 in 0..1000; write them as x1, y1"):
        opened("rec", tmp_path)
