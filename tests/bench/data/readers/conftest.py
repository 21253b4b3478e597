"""Small datasets of ours in the original form of every reader.

Two images of 20 x 16 and 24 x 12 pixels with a rectangle and a triangle, and what each form can say about them.
"""

import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from bench.data import rle
from bench.data.cards import load_card, open_dataset

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


def sa1b_file():
    square, wedge = (rle.encode(mask_of(shape)) for shape in (RECTANGLE, TRIANGLE))
    return {"image": {"file_name": "a.jpg", "height": 16, "width": 20},
            "annotations": [{"segmentation": square, "bbox": box(2, 2, 10, 8)}, {"segmentation": wedge}]}  # fmt: skip


def write_sa1b(root):
    images(root / "part", ".jpg")
    (root / "part/a.json").write_text(json.dumps(sa1b_file()))


def write_coco(root):
    images(root / "val2017", ".jpg")
    (root / "annotations").mkdir()
    (root / "annotations/instances_val2017.json").write_text(json.dumps(coco_file()))


BOTH = mask_of(RECTANGLE) | (np.arange(320).reshape(20, 16).T >= 300)
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
    "sa1b": ("sa-1b", write_sa1b, {}, [
        ("part/a/0", "a.jpg", ("",), (0,), mask_of(RECTANGLE), None, (2, 2, 10, 8), False)]),
    "panoptic": ("coco-panoptic", write_panoptic, {"split": "val"}, [
        ("4/person", "a.jpg", ("person",), (0,), segments() == 258, segments() == 0, None, False),
        ("4/wall-other-merged", "a.jpg", ("wall",), (0,), np.isin(segments(), (3, 65537)), segments() == 0, None,
         False)]),
}  # fmt: skip
DOCUMENTS = {
    "psalm": psalm_items,
    "rec": rec_lines,
    "mask_perception": perception_items,
    "reasonseg": reason_file,
    "panoptic": panoptic_file,
    "coco": coco_file,
    "sa1b": sa1b_file,
}
FILES = {"psalm": "res/refcoco/refcoco_val.json", "rec": "rec/refcoco_val.jsonl",
          "mask_perception": "Mask_Perception/mask_perception.json", "reasonseg": "ReasonSeg/val/a.json",
          "panoptic": "annotations/panoptic_val2017.json", "coco": "annotations/instances_val2017.json",
          "sa1b": "part/a.json"}  # fmt: skip


def opened(form, root, **options):
    """The dataset of a form that was written to `root`."""
    name, _, given, _ = FORMS[form]
    given = {"split": load_card(name).defaults["split"]} | given | options
    if "images" in given:
        given["images"] = root / given["images"]
    return open_dataset(name, root, **given)


@pytest.fixture(scope="session")
def forms():
    """names of cards, expected samples, write(form, root), opened(form, root), documents and files by form; mask_of."""
    return SimpleNamespace(
        names={form: row[0] for form, row in FORMS.items()}, expected={form: row[3] for form, row in FORMS.items()},
        write=lambda form, root: FORMS[form][1](root), opened=opened, documents=DOCUMENTS, files=FILES, mask_of=mask_of,
        rectangle=RECTANGLE,
    )  # fmt: skip
