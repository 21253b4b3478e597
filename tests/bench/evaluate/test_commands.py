"""`genseg score` and `genseg compare` on files of predictions."""

import json

import numpy as np
import pytest

from bench.data.cards import open_dataset
from bench.data.commands import build
from bench.evaluate.commands import compare_files, score_file
from bench.evaluate.predictions import line
from bench.records import read_records, write_lines
from methods.base import Prediction, UserError


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """A small dataset, and two files of predictions: the true masks, and the same with nothing in every second."""
    folder = tmp_path_factory.mktemp("score")
    build(level="easy", root=folder / "data", splits=["train"], train_scenes=6)
    dataset = open_dataset("refmoji", folder / "data", "train")
    for name, step in (("right.jsonl", 10**6), ("half.jsonl", 2)):
        rows = []
        for index in range(len(dataset)):
            example = dataset[index]
            mask = example.mask if index % step or step > 2 else np.zeros_like(example.mask)
            rows.append(line(example, Prediction(mask=mask), "per_expression", 0, example.expressions[:1]))
        write_lines(folder / name, rows)
    return folder


def test_figures_are_printed_and_written(answers, capsys):
    records = score_file(answers / "right.jsonl", answers / "data", None, None)
    values = {record.metric: record.value for record in records}
    assert values["ciou"] == values["bf_score"] == 1
    assert {record.split for record in records} == {"train"}
    assert read_records(answers / "right.records.jsonl") == sorted(records, key=lambda record: record.key)
    assert "100.00 %" in capsys.readouterr().out


def test_differences_are_paired(answers, capsys):
    found = compare_files(answers / "right.jsonl", answers / "half.jsonl", answers / "data", None, None)
    assert 0 < found["ciou"].low <= found["ciou"].value <= found["ciou"].high < 1
    assert found["ciou"].p < 0.05
    assert "p (Holm)" in capsys.readouterr().out
    score_file(answers / "half.jsonl", answers / "data", None, None)
    again = compare_files(answers / "right.jsonl", answers / "half.scores.jsonl", answers / "data", None, None)
    assert again == found


def test_files_that_cannot_be_scored(answers, tmp_path):
    with pytest.raises(UserError, match="none.jsonl: cannot be read"):
        score_file(tmp_path / "none.jsonl", answers / "data", None, None)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="empty.jsonl: empty"):
        score_file(tmp_path / "empty.jsonl", answers / "data", None, None)
    row = json.loads((answers / "right.jsonl").read_text().splitlines()[0])
    del row["split"]
    write_lines(tmp_path / "nowhere.jsonl", [row])
    with pytest.raises(UserError, match="nowhere.jsonl, line 1: names no dataset or split"):
        score_file(tmp_path / "nowhere.jsonl", answers / "data", None, None)
