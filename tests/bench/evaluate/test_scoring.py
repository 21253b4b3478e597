"""Predictions file -> scores -> records."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bench.data import rle
from bench.data.dataset import ExampleDataset
from bench.evaluate.metrics import SampleScore, aggregate
from bench.evaluate.scoring import compare, score_predictions, to_records
from bench.records import read_records, write_records
from methods.base import Example, UserError
from methods.files import write_lines


def block(height, width):
    mask = np.zeros((40, 60), bool)
    mask[:height, :width] = True
    return mask


def example(reference, mask, expression, **more):
    return Example(
        image=Image.new("RGB", (60, 40)),
        expressions=(expression,),
        mask=mask,
        box=(0.0, 0.0, 10.0, 10.0),
        image_id=reference // 2,
        ref_id=reference,
        facts={"style": expression.split()[0]},
        **more,
    )


def line(reference, mask, expression="red car", sentence=0, **more):
    return {
        "dataset": "toy",
        "split": "val",
        "protocol": "per_expression",
        "ref_id": reference,
        "sent_id": sentence,
        "image_id": reference // 2,
        "expression": expression,
        "size": [40, 60],
        "mask": rle.encode(mask),
        "box": None,
        "text": "",
        "token_ids": [1, 2],
        "steps": 3,
        "failure": None,
    } | more


DATASET = [
    example(1, block(10, 10), "red car"),
    example(2, block(10, 10), "left car"),
    example(3, block(20, 20), "big car"),
]


def scored(tmp_path, lines, dataset=DATASET):
    return score_predictions(write_lines(tmp_path / "p.jsonl", lines), ExampleDataset(dataset, "toy"))


def test_rows_keep_their_order_keys_and_facts(tmp_path):
    rows = scored(
        tmp_path,
        [
            line(3, block(20, 10), box=[0.0, 0.0, 10.0, 9.0]),
            line(2, block(10, 10), "left car"),
            line(1, block(0, 0), failure="no mask was written"),
        ],
    )
    assert [row["ref_id"] for row in rows] == [3, 2, 1]
    assert [row["iou"] for row in rows] == [0.5, 1.0, 0.0]
    assert [row["facts"]["style"] for row in rows] == ["big", "left", "red"]
    assert [row["box_iou_text"] for row in rows] == [0.9, 0.0, 0.0]  # boxes were asked for, so a missing one is a miss
    assert rows[2]["failure"] == "no mask was written"
    assert rows[0]["token_ids"] == [1, 2]
    json.dumps(rows)


def test_no_box_in_the_whole_file_means_none_was_asked_for(tmp_path):
    rows = scored(tmp_path, [line(1, block(10, 10))])
    assert rows[0]["box_iou_text"] is None
    metrics = {record.metric for record in to_records(rows, method="m")}
    assert "mask_acc@0.9" in metrics
    assert "acc@0.9" not in metrics


def test_records_equal_the_aggregate_and_know_what_they_are(tmp_path):
    rows = scored(tmp_path, [line(1, block(9, 10)), line(2, block(10, 5)), line(3, block(20, 20), failure="odd")])
    records = to_records(rows, method="m", variant={"v": 1}, seed=7, note="nano")
    figures = aggregate([SampleScore.from_dict(row) for row in rows])
    for record in records:
        assert record.value == figures[record.metric]
        assert (record.method, record.variant, record.dataset, record.split) == ("m", {"v": 1}, "toy", "val")
        assert (record.protocol, record.seed, record.failures) == ("per_expression", 7, 1)
    by_metric = {record.metric: record for record in records}
    assert by_metric["bf_score"].note == "nano; theta = 0.0075 of the diagonal, distance < theta"
    assert by_metric["giou"].n == 3
    assert by_metric["giou"].low <= by_metric["giou"].value <= by_metric["giou"].high
    assert "giou@large" not in by_metric
    path = write_records(tmp_path / "records.jsonl", records)
    assert {record.key for record in read_records(path)} == {record.key for record in records}


def test_facts_are_those_of_the_sentence(tmp_path):
    joined = Example(
        image=Image.new("RGB", (60, 40)),
        expressions=("red car", "car on the left"),
        mask=block(5, 5),
        ref_id=8,
        facts={"style": ["plus", "plain"], "targets": 1, "colours": ["red"]},
    )
    single = [line(8, block(5, 5), sentence=1, expression=""), line(8, block(5, 5), sentence=0)]
    whole = line(8, block(5, 5), sentence=-1, protocol="per_object_joined")
    facts = [row["facts"] for lines in (single, [whole]) for row in scored(tmp_path, lines, [joined])]
    assert [fact["style"] for fact in facts] == ["plain", "plus", ["plus", "plain"]]
    shape = {"size": "1 to 4 %", "parts": "1 part", "outline": "plain"}  # of the ground truth
    assert facts[0] | {"style": 0} == {"style": 0, "targets": 1, "colours": ["red"]} | shape


def test_corrections_are_counted_by_masks(tmp_path):
    """Of the masks whose corrections were counted, the share with any; a count that is none is refused."""
    counted = [line(1, block(9, 10), corrections=0), line(2, block(10, 5), corrections=3), line(3, block(20, 20))]
    found = {r.metric: r for r in to_records(scored(tmp_path, counted), method="m")}
    assert (found["corrected"].value, found["corrected"].n) == (0.5, 2)
    assert "corrected" not in {r.metric for r in to_records(scored(tmp_path, counted[2:]), method="m")}
    for wrong in (-1, "two", 0.5):
        with pytest.raises(UserError, match="line 1: corrections is"):
            scored(tmp_path, [line(1, block(9, 10), corrections=wrong)])


def test_what_is_no_answer_is_an_empty_mask_and_a_failure(tmp_path):
    lines = [
        line(1, block(1, 1)) | {"mask": None},
        line(2, block(10, 10), failure=False),
        line(3, block(20, 20)) | {"mask": None, "failure": "cut off"},
    ]
    rows = scored(tmp_path, lines)
    assert [(row["iou"], row["failure"]) for row in rows] == [(0, "no mask"), (1, None), (0, "cut off")]
    assert {record.failures for record in to_records(rows, method="m")} == {2}
    assert not rle.decode(rows[0]["mask"]).any()


def test_a_figure_over_nothing_is_left_out(tmp_path):
    nothing = [example(n, block(0, 0), "no car", no_target=True) for n in (1, 2)]
    rows = scored(tmp_path, [line(1, block(0, 0)), line(2, block(0, 0))], nothing)
    records = {record.metric: record for record in to_records(rows, method="m")}
    assert "ciou" not in records  # its union is 0
    assert records["giou"].value == records["n_acc"].value == 1
    assert not {"t_acc", "pr@0.7"} & set(records)
    read_records(write_records(tmp_path / "records.jsonl", records.values()))


def test_samples_without_a_target_add_relas_figures(tmp_path):
    dataset = [*DATASET, *(example(n, block(0, 0), "no car", no_target=True) for n in (4, 5))]
    lines = [line(1, block(10, 9)), line(2, block(0, 0), "left car"), line(4, block(0, 0)), line(5, block(2, 2))]
    records = {record.metric: record for record in to_records(scored(tmp_path, lines, dataset), method="m")}
    expected = {"ciou": 90 / 204, "giou": 1.9 / 4, "n_acc": 0.5, "t_acc": 0.5, "pr@0.7": 0.5, "pr@0.9": 0.5}
    assert {name: records[name].value for name in expected} == pytest.approx(expected)
    assert [records[name].n for name in ("giou", "n_acc", "t_acc", "pr@0.9")] == [4, 2, 2, 2]
    assert "no target" in records["n_acc"].note


def test_nothing_has_no_box_to_be_missed(tmp_path):
    """True answers, every second to a question without a target: all boxes that are there are found."""
    nothing = block(0, 0)
    dataset = [example(1, block(10, 10), "red car"), replace(example(2, nothing, "no car"), box=None, no_target=True)]
    lines = [line(1, block(10, 10), box=[0, 0, 10, 10]), line(2, nothing, "no car")]
    for rows, boxes in ((lines, 1), (lines[1:], 0)):
        found = {record.metric: record for record in to_records(scored(tmp_path, rows, dataset), method="toy")}
        accuracies = [found[name] for name in found if "acc@" in name]
        assert bool(accuracies) == bool(boxes)
        assert all((record.value, record.n) == (1, 1) for record in accuracies)
        assert found["n_acc"].value == 1


def test_one_image_gives_no_interval(tmp_path):
    records = to_records(scored(tmp_path, [line(1, block(9, 10))]), method="m")
    assert all(record.low is None and math.isfinite(record.value) for record in records)


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([line(9, block(1, 1))], "line 1: the dataset has no reference 9"),
        ([line(1, block(1, 1)), line(1, block(2, 2))], "line 2: reference 1 was already predicted in line 1"),
        ([line(1, block(1, 1)) | {"mask": rle.encode(np.ones((3, 4), bool))}], "4x3 but the image is 60x40"),
        ([line(1, block(1, 1)) | {"mask": {"size": [40, 60], "counts": "abc"}}], "line 1: the mask cannot be decoded"),
        ([line(1, block(1, 1)) | {"mask": {"size": [-1, 60], "counts": "0"}}], "60x-1 but the image is 60x40"),
        ([line(1, block(1, 1)) | {"mask": {"size": [40], "counts": "0"}}], "line 1: the mask cannot be decoded"),
        ([line(1, block(1, 1)) | {"mask": {"size": [math.inf, 60], "counts": "0"}}], "the mask cannot be decoded"),
        ([line(1, block(1, 1)) | {"mask": [[1, 1, 5, 1, 5, 5]]}], "line 1: the mask cannot be decoded"),
        ([{k: v for k, v in line(1, block(1, 1)).items() if k != "mask"}], "line 1: no 'mask'; write its run lengths"),
        ([line(1, block(1, 1), box=[1, 2, 3])], r"line 1: the box is \[1, 2, 3\]; write four numbers"),
        ([line(1, block(1, 1), box=["a", 1, 2, 3])], "line 1: the box is"),
        ([line(1, block(1, 1), box={"x": 1})], "line 1: the box is"),
        ([line(1, block(1, 1), box=[1, 2, 3, math.nan])], "line 1: the box is"),
        ([line(1, block(1, 1)) | {"image_id": [1]}], r"line 1: image_id is \[1\]; write a number or a text"),
        ([line(1, block(1, 1)) | {"ref_id": None}], "line 1: no 'ref_id'"),
    ],
)
def test_unusable_lines_are_named(tmp_path, lines, complaint):
    with pytest.raises(UserError, match=complaint):
        scored(tmp_path, lines)


def test_a_truth_without_mask_is_named(tmp_path):
    with pytest.raises(UserError, match="no ground-truth mask"):
        scored(tmp_path, [line(1, block(1, 1))], [example(1, None, "red car")])


def test_nothing_or_a_mixture_cannot_be_aggregated(tmp_path):
    with pytest.raises(UserError, match="no scores"):
        to_records([], method="m")
    rows = scored(tmp_path, [line(1, block(1, 1)), line(2, block(1, 1), split="testA")])
    with pytest.raises(UserError, match="several values of split"):
        to_records(rows, method="m")


def test_two_files_of_scores_are_compared_question_by_question(tmp_path):
    better = scored(tmp_path, [line(1, block(10, 10)), line(2, block(10, 9)), line(3, block(20, 20))])
    worse = scored(tmp_path, [line(3, block(20, 10)), line(1, block(10, 5)), line(2, block(10, 9))])
    found = compare((better, worse))
    assert found["giou"].value == pytest.approx((0.5 + 0.0 + 0.5) / 3)
    assert found["giou"].low <= found["giou"].value <= found["giou"].high
    assert "acc@0.9" not in found  # no box was asked for
    with pytest.raises(UserError, match="3 against 2, 1 of them on one side only"):
        compare((better, worse[:2]))
