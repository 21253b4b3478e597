"""The arithmetic of official scripts, and this project's own of answers without masks."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data import rle
from bench.data.boxes import box_iou
from bench.data.dataset import ExampleDataset
from bench.evaluate.plain_tasks import plain_records, score_plain
from bench.evaluate.printed import box_overlap, letter, mask_figures, overlap, printed, printed_records
from methods.base import Example, UserError
from methods.protocols import TaskProtocol


def test_an_empty_union_is_an_iou_of_one():
    assert mask_figures([(0, 0), (1, 2), (0, 4)]) == pytest.approx({"ciou": 1 / 6, "giou": 0.5})


def test_ignored_pixels_are_hits_of_one_release():
    truth, ignore, mask = (np.zeros((2, 4), bool) for _ in range(3))
    truth[0, :2], ignore[1], mask[0, 1:3] = True, True, True
    example, row = Example("", ("",), truth, ignore=ignore), {"mask": rle.encode(mask)}
    assert overlap(row, example, ignored_hit=True) == (1 + 4, 3 + 4)
    assert overlap(row, example, ignored_hit=False) == (1, 3)
    assert overlap({"mask": None}, example, ignored_hit=True) == (4, 6)


def test_boxes_at_the_threshold_hit_as_in_float32():
    """This IoU is a half but for rounding, which decides; the released script counted it."""
    box, truth = [103.20000457763672, -1.2000007629394531, 207.0, 167.39999389648438], (155.1, -1.2, 207.0, 167.4)
    rule = TaskProtocol(printed="boxes", thresholds=(0.5, 0.9))
    assert box_overlap(box, truth) == 0.5000000596046448
    assert printed(rule, [{"box": box}, {"box": None}], [Example("", ("",), box=truth)] * 2) == {
        "acc@0.5": 0.5, "acc@0.9": 0.0,
    }  # fmt: skip


sides = st.floats(0, 1000, width=16)


@settings(max_examples=100, deadline=None)
@given(st.tuples(sides, sides, sides, sides), st.tuples(sides, sides, sides, sides))
def test_both_ways_to_compute_the_iou_of_boxes_agree(first, second):
    boxes = [(min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]) + 1, max(b[1], b[3]) + 1) for b in (first, second)]
    assert box_overlap(*boxes) == pytest.approx(box_iou(*boxes), abs=1e-4)


@pytest.mark.parametrize(
    ("text", "read"),
    [("C.", "C"), ("b", "B"), ("(D)", "D"), ("No.", "A"), ("a dog", "A"), ("E", "A"), ("I say B or C", "B"), ("", "A")],
)
def test_letters_as_the_release_reads_them(text, read):
    assert letter(text) == read


def written(tmp_path, lines):
    path = tmp_path / "p.jsonl"
    common = {"dataset": "d", "split": "val", "protocol": "official", "sent_id": -1, "failure": None, "text": ""}
    path.write_text(
        "".join(json.dumps(common | {"ref_id": i, "image_id": i} | row) + "\n" for i, row in enumerate(lines))
    )
    return path


def test_boxes_are_scored_without_masks(tmp_path):
    truth = (0.0, 0.0, 10.0, 10.0)
    dataset = ExampleDataset([Example("", ("it",), box=truth, ref_id=i, image_id=i) for i in range(3)])
    dataset.task = "ground"
    rows = score_plain(written(tmp_path, [{"box": [0, 0, 10, 10]}, {"box": [0, 0, 10, 6]}, {"box": None}]), dataset)
    found = {r.metric: (r.value, r.n, r.failures) for r in plain_records(rows, method="m", seed=1)}
    assert found == {"acc@0.5": (2 / 3, 3, 1), "acc@0.7": (1 / 3, 3, 1), "acc@0.9": (1 / 3, 3, 1)}


def test_what_nobody_answered_is_a_failure_and_what_is_no_box_is_refused(tmp_path):
    truth = (0.0, 0.0, 10.0, 10.0)
    dataset = ExampleDataset([Example("", ("it",), box=truth, ref_id=i, image_id=i) for i in range(4)])
    dataset.task = "ground"
    path = written(tmp_path, [{"box": [0, 0, 10, 10]}])
    assert [len(score_plain(path, dataset, limit)) for limit in (None, 0, 3)] == [1, 4, 3]
    (best, *_) = plain_records(score_plain(path, dataset, 0), method="m")
    assert (best.value, best.n, best.failures) == (0.25, 4, 3)
    with pytest.raises(UserError, match="line 1: box is to be four numbers"):
        score_plain(written(tmp_path, [{"box": "all"}]), dataset)


def test_a_script_that_would_have_ended_is_told():
    rule = TaskProtocol(printed="masks", ends_without_mask=True)
    mask = np.ones((2, 2), bool)
    line = {"ref_id": 7, "mask": rle.encode(mask), "failure": None, "token_ids": [3], "protocol": "official"}
    example = Example("", ("",), mask)
    lost = line | {"mask": rle.encode(~mask), "token_ids": [], "failure": "no mask in the answer", "ref_id": 8}
    records = printed_records(rule, [line, lost], [example] * 2, method="m", note="so")
    assert {r.metric: (round(r.value, 9), r.failures) for r in records} == {
        "printed/ciou": (0.5, 1), "printed/giou": (0.5, 1),
    }  # fmt: skip
    assert all("ends with an error at sample 8" in r.note and r.note.startswith("so; ") for r in records)
    assert "error" not in printed_records(rule, [line], [example], method="m")[0].note


def test_letters_are_scored_and_what_names_none_is_a_failure(tmp_path):
    options = {"options": ("a dog", "a cat")}
    dataset = ExampleDataset(
        [Example("", ("Which?",), answer="A", facts=options, ref_id=i, image_id=i) for i in range(3)]
    )
    dataset.task = "perceive"
    rows = score_plain(written(tmp_path, [{"text": "A."}, {"text": "A bird"}, {"text": "B"}]), dataset)
    (record,) = plain_records(rows, method="m", note="so")
    assert (record.metric, record.value, record.failures, record.note) == ("accuracy", 1 / 3, 1, "so")
    assert (record.dataset, record.split, record.protocol) == ("d", "val", "official")
