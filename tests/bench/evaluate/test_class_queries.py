"""Class queries: `miou_class` of answers to every class is the mIoU of semantic segmentation, by the registry alone."""

import numpy as np
import pytest
from PIL import Image

from bench.data.readers.semantic import SemanticDataset
from bench.data.rle import encode
from bench.evaluate.metrics.registry import aggregate
from bench.evaluate.scoring import SampleScore, score_predictions, to_records
from methods.files import write_lines

LINE = {"dataset": "mine", "split": "val", "protocol": "per_expression", "sent_id": 0, "size": [9, 11], "box": None,
        "text": "", "token_ids": [1], "steps": 1, "failure": None}  # fmt: skip
CLASSES = ("sky", "tree", "road", "cat")


@pytest.fixture
def maps(tmp_path):
    """Six images' class indices (0 ignored, 255 void, 4 in no image) and predicted ones (1 to 4), and their folder."""
    rng = np.random.default_rng(3)
    labels = [rng.choice([0, 1, 2, 3, 255], (9, 11), p=[0.1, 0.5, 0.2, 0.1, 0.1]).astype(np.uint8) for _ in range(6)]
    answers = [np.where(rng.random((9, 11)) < 0.6, truth.clip(1, 4), rng.integers(1, 5, (9, 11))) for truth in labels]
    (tmp_path / "labels").mkdir()
    for number, truth in enumerate(labels):
        Image.fromarray(truth).save(tmp_path / f"labels/{number}.png")
        Image.new("RGB", (11, 9)).save(tmp_path / f"{number}.jpg")
    return labels, answers, tmp_path


def dataset_of(folder, ask):
    return SemanticDataset(folder, "val", "mine", classes=CLASSES, image_files="{id}.jpg",
                           label_files="labels/{id}.png", ask=ask)  # fmt: skip


def scored(dataset, answers, folder):
    rows = []
    for index in range(len(dataset)):
        info = dataset.info(index)
        mask = answers[int(info.image_id)] == CLASSES.index(info.category) + 1
        rows.append(LINE | {"ref_id": info.ref_id, "image_id": info.image_id, "mask": encode(mask)})
    return score_predictions(write_lines(folder / "p.jsonl", rows), dataset)


def confusion_miou(labels, answers):
    """The mean over classes of true positives over all that are labelled or predicted so."""
    pairs = [(t[(t > 0) & (t < 255)], a[(t > 0) & (t < 255)]) for t, a in zip(labels, answers, strict=True)]
    truth, answer = (np.concatenate(side) for side in zip(*pairs, strict=True))
    table = np.array([[np.sum((truth == i) & (answer == j)) for j in range(1, 5)] for i in range(1, 5)])
    return np.mean(np.diag(table) / (table.sum(0) + table.sum(1) - np.diag(table)))


def test_every_class_asked_is_semantic_segmentation(maps):
    labels, answers, folder = maps
    rows = scored(dataset_of(folder, "all"), answers, folder)
    found = aggregate([SampleScore.from_dict(dict(row)) for row in rows])
    assert len(rows) == 24 and found["miou_class"] == pytest.approx(confusion_miou(labels, answers))
    (record,) = [each for each in to_records(rows, method="m") if each.metric == "miou_class"]
    assert record.value == pytest.approx(found["miou_class"]) and record.low < record.value < record.high


def test_classes_that_are_shown_cannot_be_wrong_elsewhere(maps):
    labels, answers, folder = maps
    rows = scored(dataset_of(folder, "present"), answers, folder)
    ious = {}
    for name, number in zip(CLASSES[:3], (1, 2, 3), strict=True):
        inside = union = 0
        for truth, answer in zip(labels, answers, strict=True):
            if (truth == number).any():
                seen = (truth > 0) & (truth < 255)
                inside += np.sum(seen & (truth == number) & (answer == number))
                union += np.sum(seen & ((truth == number) | (answer == number)))
        ious[name] = inside / union
    found = aggregate([SampleScore.from_dict(dict(row)) for row in rows])
    assert found["miou_class"] == pytest.approx(np.mean(list(ious.values())))
