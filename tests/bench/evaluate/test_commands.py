"""`genseg score` and `genseg compare` on files of predictions."""

import json
import shutil

import numpy as np
import pytest

from bench.cli.datasets import build
from bench.data.cards import open_dataset
from bench.evaluate.commands import Place, compare_files, outputs_of, score_file
from bench.evaluate.predictions import line
from bench.records import Record, read_records, write_records
from bench.report.build import build as build_report
from methods.base import Prediction, UserError
from methods.files import read_lines, write_lines

DATA = "data/refmoji-easy/eval"


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """A small dataset where nano's is, and two files of predictions: the true masks, and nothing in every second."""
    folder = tmp_path_factory.mktemp("score")
    build(level="easy", root=folder / DATA, splits=["train"], train_scenes=6)
    dataset = open_dataset("refmoji", folder / DATA, "train")
    for name, step in (("right.jsonl", 10**6), ("half.jsonl", 2)):
        rows = []
        for index in range(len(dataset)):
            example = dataset[index]
            mask = example.mask if index % step or step > 2 else np.zeros_like(example.mask)
            for number, words in enumerate(example.expressions):
                rows.append(line(example, Prediction(mask=mask), "per_expression", number, [words]))
        write_lines(folder / name, rows)
    return folder


def test_figures_are_printed_and_written(answers, capsys):
    records = score_file(answers / "right.jsonl", Place(answers / DATA))
    values = {record.metric: record.value for record in records}
    assert values["ciou"] == values["bf_score"] == 1
    assert {record.split for record in records} == {"train"}
    assert read_records(answers / "right.records.jsonl") == sorted(records, key=lambda record: record.key)
    out = capsys.readouterr().out
    assert "100.00 %" in out
    assert "no answer" not in out


def test_nanos_data_and_no_images_are_what_a_file_needs(answers, tmp_path, monkeypatch, genseg):
    """As after `make reproduce`; a dataset that is named is sought where its card says."""
    (tmp_path / DATA).mkdir(parents=True)
    for path in (answers / DATA).glob("*.json"):
        shutil.copy(path, tmp_path / DATA)
    shutil.copy(answers / "right.jsonl", tmp_path / "mine.jsonl")
    monkeypatch.chdir(tmp_path)
    result = genseg("score", "mine.jsonl")
    assert (result.code, result.err) == (0, "")
    assert "100.00 %" in result.out
    assert genseg("compare", "mine.jsonl", "mine.jsonl").code == 0
    assert genseg("score", "mine.jsonl", "profile=nano").code == 0
    assert "data/refmoji: has no refs" in genseg("score", "mine.jsonl", "dataset=refmoji").complaint
    assert "missing image" in genseg("score", "mine.jsonl", "images=elsewhere").complaint
    assert "limit is 'few'" in genseg("score", "mine.jsonl", "limit=few").complaint


def test_questions_without_an_answer_are_empty_masks_and_failures(answers, tmp_path, capsys):
    rows = [row for _, row in read_lines(answers / "right.jsonl")]
    write_lines(tmp_path / "one.jsonl", rows[:1])
    records = {r.metric: r for r in score_file(tmp_path / "one.jsonl", Place(answers / DATA))}
    assert (records["giou"].n, records["giou"].failures) == (len(rows), len(rows) - 1)
    assert records["giou"].value == pytest.approx(1 / len(rows))
    assert f"{len(rows) - 1} of {len(rows)} questions have no answer" in capsys.readouterr().out
    records = {r.metric: r for r in score_file(tmp_path / "one.jsonl", Place(answers / DATA, limit=1))}
    assert (records["giou"].value, records["giou"].n, records["giou"].failures) == (1, 1, 0)
    # an answer without a sentence is one for its reference, and a file that names neither protocol nor dataset is read
    bare = {key: rows[0][key] for key in ("ref_id", "image_id", "mask")}
    write_lines(tmp_path / "bare.jsonl", [bare])
    found = score_file(tmp_path / "bare.jsonl", Place(answers / DATA, dataset="refmoji", split="train"))
    references = len({row["ref_id"] for row in rows})
    assert {(r.dataset, r.split, r.n, r.failures) for r in found if r.metric == "giou"} == {
        ("refmoji", "train", references, references - 1)
    }


def test_differences_are_paired(answers, capsys):
    found = compare_files(answers / "right.jsonl", answers / "half.jsonl", Place(answers / DATA)).found
    assert 0 < found["ciou"].low <= found["ciou"].value <= found["ciou"].high < 1
    assert found["ciou"].p < 0.05
    assert "p (Holm)" in capsys.readouterr().out
    score_file(answers / "half.jsonl", Place(answers / DATA))
    again = compare_files(answers / "right.jsonl", answers / "half.scores.jsonl", Place(answers / DATA)).found
    assert again == found


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"iou": None}, "line 2: iou is None; make the scores again with `genseg score`"),
        ({"iou": "1"}, "line 2: iou is '1'"),
        ({"box_mask": 5}, "line 2: box_mask is 5"),
        ({"image_id": [1]}, r"line 2: image_id is \[1\]; write a number or a text"),
        ({"bf": ...}, "line 2: no 'bf'"),
        ({"ref_id": ...}, "line 2: no 'ref_id'"),
    ],
)
def test_scores_that_lack_something_are_named(answers, tmp_path, change, complaint):
    score_file(answers / "right.jsonl", Place(answers / DATA))
    rows = [row for _, row in read_lines(answers / "right.scores.jsonl")]
    rows[1] = {key: value for key, value in (rows[1] | change).items() if value is not ...}
    write_lines(tmp_path / "bad.jsonl", rows)
    for words in ((tmp_path / "bad.jsonl", answers / "right.scores.jsonl"), (tmp_path / "bad.jsonl",) * 2):
        with pytest.raises(UserError, match=complaint):
            compare_files(*words)
    with pytest.raises(UserError, match=complaint):
        score_file(tmp_path / "bad.jsonl")


def test_files_of_different_splits_are_not_compared(answers, tmp_path):
    score_file(answers / "half.jsonl", Place(answers / DATA))
    rows = [row for _, row in read_lines(answers / "half.scores.jsonl")]
    for name in ("dataset", "split", "protocol"):
        write_lines(tmp_path / "other.scores.jsonl", [row | {name: "other"} for row in rows])
        with pytest.raises(UserError, match=f"are answers of {name} .* and other; compare two files of the same"):
            compare_files(answers / "half.scores.jsonl", tmp_path / "other.scores.jsonl", Place(answers / DATA))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"sent_id": 7}, "sent_id is 7, but reference .* has"), ({"image_id": "x0"}, "image_id is 'x0', but reference")],
)
def test_a_sentence_or_an_image_that_a_referent_lacks_is_named(answers, tmp_path, change, complaint):
    rows = [row for _, row in read_lines(answers / "right.jsonl")]
    write_lines(tmp_path / "mine.jsonl", [rows[0] | change, *rows[1:]])
    with pytest.raises(UserError, match=f"mine.jsonl, line 1: {complaint}"):
        score_file(tmp_path / "mine.jsonl", Place(answers / DATA))


def test_files_that_cannot_be_scored(answers, tmp_path):
    with pytest.raises(UserError, match="none.jsonl: cannot be read"):
        score_file(tmp_path / "none.jsonl", Place(answers / DATA))
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="empty.jsonl: empty"):
        score_file(tmp_path / "empty.jsonl", Place(answers / DATA))
    with pytest.raises(UserError, match="captions holds no masks, boxes or choices"):
        score_file(answers / "right.jsonl", Place(answers / DATA, dataset="captions"))
    row = json.loads((answers / "right.jsonl").read_text().splitlines()[0])
    del row["split"]
    write_lines(tmp_path / "nowhere.jsonl", [row])
    with pytest.raises(UserError, match="nowhere.jsonl, line 1: names no dataset or split"):
        score_file(tmp_path / "nowhere.jsonl", Place(answers / DATA))


def test_two_files_never_share_an_output(answers, tmp_path):
    names = ["preds.epoch1", "preds.epoch2", "preds", "preds.jsonl", "preds.json"]
    for name in names:
        shutil.copy(answers / "right.jsonl", tmp_path / name)
    targets = [target for name in names for target in outputs_of(tmp_path / name)]
    assert len(set(targets)) == 2 * len(names)
    score_file(tmp_path / "preds.epoch1", Place(answers / DATA))
    assert (tmp_path / "preds.epoch1-scores.jsonl").exists()
    score_file(tmp_path / "preds.epoch1", Place(answers / DATA))  # what a scoring wrote is written again


def test_a_file_that_no_scoring_wrote_is_not_replaced(answers, tmp_path):
    for name in ("a.jsonl", "a.scores.jsonl"):
        shutil.copy(answers / "right.jsonl", tmp_path / name)
    with pytest.raises(UserError, match=r"a.scores.jsonl: holds something else .* rename it or a.jsonl"):
        score_file(tmp_path / "a.jsonl", Place(answers / DATA))


def test_coco_results_need_the_name_of_a_split(tmp_path):
    (tmp_path / "segm.json").write_text('[\n{"image_id": 1,\n"score": 1.0}\n]')
    with pytest.raises(UserError, match="segm.json: names no dataset or split; give dataset=NAME split=NAME"):
        score_file(tmp_path / "segm.json")


def test_other_forms_of_predictions_score_alike(answers, tmp_path, genseg):
    """Written in every form, read back and scored by the command line."""
    asked = ("dataset=refmoji", "split=train", f"root={answers / DATA}")
    before = {record.metric: record.value for record in score_file(answers / "half.jsonl", Place(answers / DATA))}
    for name in ("results.json", "masks", "lines.jsonl"):
        assert genseg("exchange", answers / "half.jsonl", tmp_path / name, *asked).code == 0
        assert genseg("score", tmp_path / name, *asked).code == 0
        stem = "lines." if name == "lines.jsonl" else f"{name}-"
        after = {record.metric: record.value for record in read_records(tmp_path / f"{stem}records.jsonl")}
        assert after == before
    assert "is there already" in genseg("exchange", answers / "half.jsonl", tmp_path / "masks", *asked).complaint


def test_an_outside_system_gets_a_row_beside_ours(answers, tmp_path, genseg):
    """In each form, under its own name and the protocol that asks as it answers."""
    asked = ("dataset=refmoji", "split=train", f"root={answers / DATA}")
    results = tmp_path / "results" / "mine"
    (results / "records").mkdir(parents=True)
    ours = Record(
        method="himtok", metric="ciou", value=0.5, dataset="refmoji", split="train", protocol="per_expression"
    )
    write_records(results / "records" / "scores-train.jsonl", [ours])
    for form, name in (("LISA", "lisa.json"), ("UniGS", "masks")):
        genseg("exchange", answers / "half.jsonl", tmp_path / name, *asked)
        done = genseg("score", tmp_path / name, *asked, f"method={form}", f"results={results}")
        assert done.code == 0
    polygons = json.loads((tmp_path / "lisa.json").read_text())[:1]
    polygons[0]["segmentation"] = [[1, 1, 30, 1, 30, 30, 1, 30]]
    (tmp_path / "sam.json").write_text(json.dumps(polygons))
    genseg("score", tmp_path / "sam.json", *asked, "method=SAM", f"results={results}", "protocol=shared")
    build_report(results)
    table = (results / "tables" / "main.md").read_text()
    assert all(f"| {name} " in table for name in ("HiMTok", "LISA", "UniGS", "SAM"))
    assert "each expression by itself" in table and "shared" in table
    wrong = genseg("score", tmp_path / "masks", *asked, f"results={tmp_path}")
    assert "has no records; give the results folder of a profile" in wrong.complaint


def test_dialects_and_explanations_are_printed(answers, genseg):
    where = f"root={answers / DATA}"
    shown = genseg("dialects", answers / "half.jsonl", where)
    assert shown.code == 0
    assert all(name in shown.out for name in ("genseg-bench", "HiMTok", "PSALM", "Sa2VA"))
    told = genseg("explain", answers / "right.jsonl", answers / "half.jsonl", where, "dialect=lisa,psalm")
    assert told.code == 0
    assert "polygons are drawn by fillPoly" in told.out or "model, prompt or decoding" in told.out
    way = [answers / name for name in ("right.jsonl", "right.jsonl", "half.jsonl")]
    assert genseg("explain", *way, f"a.{where}", f"b.{where}", f"c.{where}").code == 0
    assert "2 dialects for 3 files" in genseg("explain", *way, where, "dialect=lisa,psalm").complaint
    assert "did you mean 'lisa'" in genseg("explain", *way[1:], where, "dialect=lsia").complaint
    assert "Give two files" in genseg("explain", way[0], where).complaint


def test_what_was_scored_can_be_compared(answers, tmp_path):
    """Ids as tables write them, and questions that only one file answers."""
    rows = [row for _, row in read_lines(answers / "right.jsonl")]
    as_text = [row | {key: str(row[key]) for key in ("ref_id", "sent_id", "image_id")} for row in rows[:-1]]
    write_lines(tmp_path / "text.jsonl", as_text)
    for second in (tmp_path / "text.jsonl", tmp_path / "text.scores.jsonl"):
        found = compare_files(answers / "right.jsonl", second, Place(answers / DATA)).found
        assert found["giou"].value == pytest.approx(1 / len(rows))
        score_file(tmp_path / "text.jsonl", Place(answers / DATA))
    scores = [row for _, row in read_lines(tmp_path / "text.scores.jsonl")]
    write_lines(tmp_path / "twice.scores.jsonl", [*scores, scores[0]])
    with pytest.raises(UserError, match="was scored in line 1 already"):
        compare_files(answers / "right.jsonl", tmp_path / "twice.scores.jsonl", Place(answers / DATA))


def test_boxes_alone_are_scored(tmp_path, capsys):
    row = {"image": "a.png", "sent": "it", "bbox": [0, 0, 10, 10], "height": 20, "width": 20}
    (tmp_path / "refcoco_val.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(2)))
    line = {"ref_id": 0, "image_id": "a.png", "sent_id": -1, "box": [0, 0, 10, 9], "text": "", "failure": None}
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(line) + "\n")
    records = score_file(path, Place(root=tmp_path, dataset="refcoco-rec", split="val"))
    assert {r.metric: r.value for r in records} == {"acc@0.5": 0.5, "acc@0.7": 0.5, "acc@0.9": 0.5}
    assert score_file(path, Place(root=tmp_path, dataset="refcoco-rec", split="val")) == records
    assert {(r.dataset, r.split, r.n, r.failures) for r in records} == {("refcoco-rec", "val", 2, 1)}
    assert "1 of 2 questions have no answer" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds scores already"):
        score_file(tmp_path / "mine.scores.jsonl", Place(root=tmp_path, dataset="refcoco-rec", split="val"))
