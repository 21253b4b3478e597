"""Other systems' masks: COCO results, folders of PNG masks and our own lines hold the same answers."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchmetrics.classification import BinaryJaccardIndex

from bench.data import rle
from bench.data.dataset import ExampleDataset
from bench.evaluate.exchange import read_answers, read_mask, write_answers
from bench.evaluate.metrics import SampleScore, aggregate
from bench.evaluate.scoring import score_predictions
from methods.base import Example, UserError

SIZE = (24, 36)


def block(top, left, height, width):
    mask = np.zeros(SIZE, bool)
    mask[top : top + height, left : left + width] = True
    return mask


TRUTHS = [block(2, 3, 10, 12), block(0, 0, 24, 9), block(12, 20, 5, 5), block(8, 8, 1, 1)]
SENTENCES = [("the red car", "car on the left"), ("a wall",), ("the dog",), ("dot", "small dot", "spot")]
IMAGES = [7, 7, 9, 11]  # the first shows two objects


def dataset():
    photo = Image.new("RGB", SIZE[::-1])
    rows = zip(TRUTHS, SENTENCES, IMAGES, strict=True)
    return ExampleDataset(
        [
            Example(photo, words, mask, image_id=image, ref_id=ref_id, dataset="toy", split="val")
            for ref_id, (mask, words, image) in enumerate(rows, 101)
        ],
        "toy",
    )


def joined(masks):
    """A line for each sample, which answers all of its sentences at once."""
    return [
        ("p.jsonl", {"ref_id": 101 + at, "image_id": IMAGES[at], "sent_id": -1, "mask": rle.encode(mask)})
        for at, mask in enumerate(masks)
    ]


def answers_of(path):
    """(ref_id, sent_id) -> mask of a file or folder."""
    rows = score_predictions(path, dataset())
    return {(row["ref_id"], row["sent_id"]): rle.decode(row["mask"]) for row in rows}


MASKS = st.lists(
    st.builds(block, st.integers(0, 23), st.integers(0, 35), st.integers(0, 24), st.integers(0, 36)),
    min_size=4, max_size=4,
)  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(MASKS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "masks"])
def test_every_form_is_read_back_exactly(tmp_path_factory, name, masks):
    folder = tmp_path_factory.mktemp("form")
    write_answers(joined(masks), dataset(), folder / name)
    found = answers_of(folder / name)
    assert found.keys() == {(101 + at, -1) for at in range(4)}
    for at, mask in enumerate(masks):
        np.testing.assert_array_equal(found[101 + at, -1], mask)


@pytest.mark.parametrize("name", ["a.json", "masks"])
def test_single_sentences_and_missing_answers(tmp_path, name):
    rows = [
        ("p", {"ref_id": 101, "image_id": 7, "sent_id": position, "mask": rle.encode(mask)})
        for position, mask in enumerate(TRUTHS[:2])
    ]
    rows.append(("p", {"ref_id": 104, "image_id": 11, "sent_id": 2, "mask": None}))
    write_answers(rows, dataset(), tmp_path / name)
    found = answers_of(tmp_path / name)
    assert found.keys() == {(101, 0), (101, 1)}  # what is not there is a failure when all questions are scored
    np.testing.assert_array_equal(found[101, 1], TRUTHS[1])


def written(path: Path, rows) -> Path:
    path.write_text(json.dumps(rows))
    return path


def test_results_name_questions_by_words_and_images(tmp_path):
    polygon = [[20, 12, 25, 12, 25, 17, 20, 17]]
    runs = {"size": list(SIZE), "counts": [0, 24 * 9, 24 * 27]}  # not compressed
    rows = [
        {"ref_id": "101", "caption": "Car on the LEFT", "segmentation": rle.encode(TRUTHS[0]), "bbox": [3, 2, 12, 10]},
        {"ref_id": 102, "sent_id": 0, "image_id": 7, "segmentation": runs},
        {"image_id": 9, "category_id": 1, "score": 0.3, "expression": "the dog", "segmentation": polygon},
    ]
    found = score_predictions(written(tmp_path / "r.json", rows), dataset())
    assert [(row["ref_id"], row["sent_id"], row["iou"]) for row in found] == [(101, 1, 1), (102, 0, 1), (103, 0, 1)]
    assert found[0]["box"] == [3, 2, 15, 12]


def png(path: Path, values, mode=None) -> Path:
    Image.fromarray(np.asarray(values, np.uint8), mode).save(path)
    return path


def test_masks_are_named_by_question_or_image(tmp_path):
    for name, mask in (("101", TRUTHS[0]), ("102", TRUTHS[1]), ("9", TRUTHS[2])):
        png(tmp_path / f"{name}.png", mask * 255)
    (tmp_path / "README.txt").write_text("masks")
    found = answers_of(tmp_path)
    assert found.keys() == {(101, -1), (102, -1), (103, -1)}
    np.testing.assert_array_equal(found[103, -1], TRUTHS[2])
    png(tmp_path / "7.png", TRUTHS[0])
    with pytest.raises(UserError, match=r"7.png: no question of toy val has this name"):  # two things are asked of it
        answers_of(tmp_path)


@pytest.mark.parametrize(
    ("values", "right"),
    [
        ([[0, 255], [255, 0]], [[0, 1], [1, 0]]),
        ([[0, 1], [1, 0]], [[0, 1], [1, 0]]),
        ([[0, 38], [38, 0]], [[0, 1], [1, 0]]),
        ([[0, 127], [128, 255]], [[0, 0], [1, 1]]),  # a soft mask
        ([[255, 255], [255, 255]], [[1, 1], [1, 1]]),
        ([[0, 0], [0, 0]], [[0, 0], [0, 0]]),
    ],
)
def test_values_of_a_mask(tmp_path, values, right):
    np.testing.assert_array_equal(read_mask(png(tmp_path / "m.png", values)), np.array(right, bool))
    grey = np.repeat(np.asarray(values)[..., None], 3, -1)
    np.testing.assert_array_equal(read_mask(png(tmp_path / "rgb.png", grey)), np.array(right, bool))


RLE = rle.encode(TRUTHS[0])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds no results"),
        ([3], "entry 1: not an object"),
        ([{"ref_id": 5, "segmentation": RLE}], "entry 1: the dataset has no reference 5"),
        ([{"image_id": 7, "segmentation": RLE}], "no single question about this image"),
        ([{"ref_id": 101, "image_id": 9, "segmentation": RLE}], "image_id is 9, but reference 101 is of image 7"),
        ([{"ref_id": 101, "caption": "a bus", "segmentation": RLE}], "reference 101 has no sentence 'a bus'"),
        ([{"ref_id": 101, "segmentation": RLE | {"size": [24, 35]}}], "cannot be decoded|35x24"),
        ([{"ref_id": 101, "segmentation": RLE | {"counts": "zz"}}], "cannot be decoded"),
        ([{"ref_id": 101, "segmentation": {"size": [24, 36], "counts": [5, -1]}}], "cannot be drawn"),
        ([{"ref_id": 101, "segmentation": [[1, 2]]}], "cannot be drawn .*three points"),
        ([{"ref_id": 101, "segmentation": "all"}], "cannot be drawn"),
        ([{"ref_id": 101, "segmentation": RLE, "bbox": [1, 2, "x", 4]}], "bbox is 'x'"),
        ([{"ref_id": 101, "segmentation": RLE}] * 2, "entry 2: reference 101 was already predicted in entry 1"),
    ],
)
def test_a_faulty_result_is_named(tmp_path, rows, message):
    with pytest.raises(UserError, match=message) as raised:
        score_predictions(written(tmp_path / "r.json", rows), dataset())
    assert "r.json" in str(raised.value)


def test_a_faulty_mask_file_is_named(tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    with pytest.raises(UserError, match="holds no PNG masks"):
        read_answers(folder, dataset())
    for name, content, message in (
        ("101.png", b"nothing", "101.png: not a readable image"),
        ("101.jpg", b"", "JPEG changes the pixels"),
        ("horse.png", b"", "horse.png: no question of toy val has this name; name it <ref_id>.png"),
    ):
        (folder / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_answers(folder, dataset())
        (folder / name).unlink()
    Image.new("RGB", SIZE[::-1], (255, 0, 0)).save(folder / "101.png")
    with pytest.raises(UserError, match="colours is no mask"):
        read_answers(folder, dataset())
    png(folder / "101.png", np.zeros((3, 3)))
    with pytest.raises(UserError, match=r"101.png: the mask is 3x3 but the image is 36x24"):
        score_predictions(folder, dataset())


def test_nothing_is_replaced(tmp_path):
    for name in ("a.jsonl", "a.json", "a"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(UserError, match="is there already and would be replaced"):
            write_answers(joined(TRUTHS), dataset(), tmp_path / name)
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


# ---- the same figures by other packages ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def predicted():
    rng = np.random.default_rng(0)
    return [mask ^ (rng.random(SIZE) < share) for mask, share in zip(TRUTHS, (0.02, 0.1, 0.3, 0.0), strict=True)]


@pytest.fixture
def ours(predicted, tmp_path):
    write_answers(joined(predicted), dataset(), tmp_path / "r.json")
    return score_predictions(tmp_path / "r.json", dataset())


def figures(rows):
    return aggregate([SampleScore.from_dict(row) for row in rows])


def test_pycocotools_scores_our_results_alike(ours, tmp_path):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(tmp_path / "r.truth.json")
        results = truth.loadRes(str(tmp_path / "r.json"))
        evaluation = COCOeval(truth, results, "segm")
        evaluation.evaluate()
    found = {ids: float(values[0, 0]) for ids, values in evaluation.ious.items() if len(values)}
    assert len(found) == 4
    for category, row in enumerate(ours, 1):
        assert found[row["image_id"], category] == pytest.approx(row["iou"], abs=1e-6)
    assert np.mean(list(found.values())) == pytest.approx(figures(ours)["giou"], abs=1e-6)


def test_pycocotools_sums_alike(ours, predicted):
    pairs = [[coco_mask.encode(np.asfortranarray(each, np.uint8)) for each in pair]
             for pair in zip(predicted, TRUTHS, strict=True)]  # fmt: skip
    inside, union = (
        sum(float(coco_mask.area(coco_mask.merge(pair, intersect=both))) for pair in pairs) for both in (True, False)
    )
    assert figures(ours)["ciou"] == pytest.approx(inside / union, abs=1e-6)


def test_torchmetrics_scores_alike(ours, predicted):
    whole, each = BinaryJaccardIndex(), []
    for mask, truth in zip(predicted, TRUTHS, strict=True):
        pair = torch.from_numpy(mask).int(), torch.from_numpy(truth).int()
        whole.update(*pair)
        each.append(float(BinaryJaccardIndex()(*pair)))
    assert figures(ours)["ciou"] == pytest.approx(float(whole.compute()), abs=1e-6)
    assert figures(ours)["giou"] == pytest.approx(np.mean(each), abs=1e-6)
