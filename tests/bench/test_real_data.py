"""Evaluation on RefCOCO's and gRefCOCO's layouts: annotations in one folder, images in another."""

import json
import pickle
import shutil

import numpy as np
import pytest

from bench.data import rle
from bench.records import read_records
from bench.train.folders import model_of_stage
from methods.files import read_lines, write_lines

IMAGES = 3


def annotations(squares):
    """COCO instances of the images of squares, three objects each, and the squares' examples."""
    examples = [squares[i] for i in range(len(squares))]
    found = []
    for number, example in enumerate(examples):
        x1, y1, x2, y2 = example.box
        shape = {"bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]]}
        found.append({"id": 100 + number, "image_id": example.image_id, "category_id": 1, **shape})
    images = [{"id": e.image_id, "file_name": f"COCO_train2014_{e.image_id:012}.jpg", "width": 64, "height": 48}
              for e in examples[::3]]  # fmt: skip
    return examples, {"images": images, "annotations": found, "categories": [{"id": 1, "name": "square"}]}


@pytest.fixture
def real(folder, squares, build, writing, profile_in):
    """The two datasets as the cards describe them, and a profile with a trained model: the folder."""
    examples, instances = annotations(squares(IMAGES))
    (folder / "train2014").mkdir()
    for image, example in zip(instances["images"], examples[::3], strict=True):
        example.image.save(folder / "train2014" / image["file_name"], quality=95)
    for name in ("refcoco", "grefcoco"):
        (folder / "refer" / name).mkdir(parents=True)
        (folder / "refer" / name / "instances.json").write_text(json.dumps(instances))
    refs = [
        {"ref_id": number, "ann_id": 100 + number, "category_id": 1, "image_id": example.image_id, "split": "val",
         "sentences": [{"sent": words, "sent_id": 2 * number + i} for i, words in enumerate(example.expressions)]}
        for number, example in enumerate(examples)
    ]  # fmt: skip
    (folder / "refer" / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, 2))
    several = [
        {"ref_id": 50 + number, "ann_id": ids, "image_id": number, "split": "val", "sentences": [{"sent": words}]}
        for number in range(IMAGES)
        for ids, words in (([100 + 3 * number, 101 + 3 * number], "both"), ([-1], "the purple square"))
    ]
    several = [ref | {"ref_id": number} for number, ref in enumerate(several)]
    (folder / "refer" / "grefcoco" / "grefs(unc).json").write_text(json.dumps(several))
    profile = profile_in("refer", "himtok: himtok")
    writing(build("himtok")).save_pretrained(model_of_stage(profile, "himtok"))
    return folder


def words(dataset):
    short = ["evaluate.limit=0", "evaluate.prefixes=false", "evaluate.protocols=[per_expression]"]
    return ["profile=small.yaml", f"data.dataset={dataset}", "data.images=train2014", *short]


@pytest.fixture
def evaluated(real, genseg):
    for dataset in ("refcoco", "grefcoco"):
        result = genseg("eval", *words(dataset))
        assert result.code == 0, result.err
    return real


def test_two_datasets_stand_beside_each_other_in_files_and_report(evaluated, genseg):
    kept = {path.name for path in (evaluated / "results/small/records").glob("*.jsonl")}
    assert kept == {"scores-refcoco.val.jsonl", "scores-grefcoco.val.jsonl"}
    made = {path.name for path in (evaluated / "runs/small/scores").glob("himtok.*per_expression.jsonl")}
    assert made == {"himtok.refcoco.val.per_expression.jsonl", "himtok.grefcoco.val.per_expression.jsonl"}
    records = read_records(evaluated / "results/small/records")
    scored = [r for r in records if (r.kind, r.metric, r.protocol) == ("score", "giou", "per_expression")]
    assert {(r.dataset, r.n) for r in scored} == {
        ("refcoco", 2 * 3 * IMAGES), ("grefcoco", 2 * IMAGES)
    }  # fmt: skip
    result = genseg("report", *words("refcoco"))
    assert result.code == 0, result.err
    grids = {path.name for path in (evaluated / "results/small/figures").glob("examples.*per_expression.webp")}
    assert grids == {f"examples.{name}.val.per_expression.webp" for name in ("refcoco", "grefcoco")}
    assert "N-acc" in result.out


def test_samples_without_a_target_have_figures_of_their_own(evaluated):
    records = read_records(evaluated / "results/small/records")
    own = {"n_acc", "t_acc", "pr@0.7", "pr@0.8", "pr@0.9"}
    assert not own & {r.metric for r in records if r.dataset == "refcoco"}
    mine = [r for r in records if (r.dataset, r.protocol) == ("grefcoco", "per_expression")]
    assert own < {r.metric for r in mine if r.method == "himtok"}
    values = {(r.method, r.metric): (r.value, r.n) for r in mine}
    assert values["baseline:empty", "n_acc"] == values["baseline:full", "t_acc"] == (1, IMAGES)
    assert values["baseline:empty", "t_acc"] == values["baseline:full", "n_acc"] == (0, IMAGES)


def test_scores_need_no_images(evaluated, genseg):
    made = evaluated / "runs/small/predictions/himtok.refcoco.val.per_expression.jsonl"
    path = shutil.copy(made, evaluated / "a.jsonl")
    shutil.rmtree(evaluated / "train2014")
    result = genseg("score", path, "root=refer")
    assert result.code == 0, result.err
    again = genseg("score", path, "profile=small.yaml")  # whose own dataset is refmoji
    assert again.out == result.out
    records = {r.metric: r for r in read_records(evaluated / "a.records.jsonl")}
    known = read_records(evaluated / "results/small/records/scores-refcoco.val.jsonl")
    own = [r for r in known if (r.kind, r.method, r.protocol) == ("score", "himtok", "per_expression")]
    before = {r.metric: r.value for r in own}
    assert {metric: record.value for metric, record in records.items()} == before
    assert "missing image" in genseg("score", path, "root=refer", "images=train2014").complaint
    assert "'refcoco' is not embedded: give root" in genseg("score", path).complaint
    result = genseg("report", *words("refcoco"))
    assert result.code == 0
    assert "Examples of refcoco val left out" in result.err


def test_no_answer_is_right_where_there_is_no_target(evaluated, genseg):
    rows = [row for _, row in read_lines(evaluated / "runs/small/predictions/himtok.grefcoco.val.per_expression.jsonl")]
    write_lines(evaluated / "a.jsonl", [row | {"mask": None} for row in rows if row["expression"] != "both"])
    result = genseg("score", "a.jsonl", "root=refer")
    assert f"{IMAGES} of {2 * IMAGES} questions have no answer" in result.out
    values = {r.metric: (r.value, r.n, r.failures) for r in read_records(evaluated / "a.records.jsonl")}
    for metric, count in (("n_acc", IMAGES), ("t_acc", IMAGES), ("giou", 2 * IMAGES)):
        assert values[metric] == (0, count, 2 * IMAGES)
    empty = rle.encode(np.zeros((48, 64), bool))
    write_lines(evaluated / "b.jsonl", [row | {"mask": empty, "failure": None} for row in rows])
    assert genseg("score", "b.jsonl", "root=refer").code == 0
    values = {r.metric: (r.value, r.failures) for r in read_records(evaluated / "b.records.jsonl")}
    assert (values["n_acc"], values["giou"]) == ((1, 0), (0.5, 0))


def test_other_annotations_are_another_truth(evaluated, genseg):
    path = evaluated / "runs/small/scores/baseline-full.refcoco.val.per_expression.jsonl"
    before, instances = path.read_text(), evaluated / "refer/refcoco/instances.json"
    data = json.loads(instances.read_text())
    for annotation in data["annotations"]:
        annotation["segmentation"] = [[0, 0, 30, 0, 30, 30, 0, 30]]
    instances.write_text(json.dumps(data))
    assert genseg("eval", *words("refcoco")).code == 0
    assert path.read_text() != before
    assert np.isclose(json.loads(path.read_text().splitlines()[0])["iou"], 900 / (64 * 48))


def test_latency_is_measured_there(real, genseg):
    result = genseg("latency", *words("refcoco"), "latency.backends=[fast]")
    assert result.code == 0, result.err
