"""Records: what is written is what is read, whole or not at all."""

import json

import pytest

from bench.records import Record, read_records, write_records
from methods.base import UserError
from methods.files import read_lines, write_atomic, write_lines


def record(**changes):
    return Record(
        **{
            "method": "a",
            "metric": "ciou",
            "value": 0.5,
            "dataset": "d",
            "split": "val",
            "protocol": "per_expression",
        }
        | changes
    )


def test_records_come_back_sorted(tmp_path):
    records = [record(method="b", low=0.4, high=0.6, versions={"torch": "2"}), record(metric="giou", n=3), record()]
    path = write_records(tmp_path / "deep" / "r.jsonl", records)
    assert read_records(path) == [records[2], records[1], records[0]]
    again = write_records(tmp_path / "again.jsonl", reversed(records))
    assert again.read_bytes() == path.read_bytes()


def test_empty_fields_are_left_out_unless_they_are_required(tmp_path):
    record = Record("a", "steps", 0, "noise", "", "latency", n=0)
    path = write_records(tmp_path / "r.jsonl", [record])
    row = {"method": "a", "metric": "steps", "value": 0, "dataset": "noise", "split": "", "kind": "latency"}
    assert json.loads(path.read_text()) == row | {"n": 0, "failures": 0}
    assert read_records(path) == [record]


def test_a_folder_is_read_by_name(tmp_path):
    write_records(tmp_path / "2.jsonl", [record(method="late")])
    write_records(tmp_path / "1.jsonl", [record(method="early")])
    assert [found.method for found in read_records(tmp_path)] == ["early", "late"]
    (tmp_path / "empty").mkdir()
    assert read_records(tmp_path / "empty") == []


def test_nan_bounds_become_null(tmp_path):
    path = write_records(tmp_path / "r.jsonl", [record(low=float("nan"))])
    assert json.loads(path.read_text())["low"] is None
    assert read_records(path)[0].low is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_could_not_be_read_again_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match=r"r\.jsonl: score a d val per_expression ciou is (nan|inf)"):
        write_records(tmp_path / "r.jsonl", [record(), record(value=value)])
    assert not (tmp_path / "r.jsonl").exists()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 2: not valid JSON"),
        ("[1]", "line 2: not a JSON object"),
        ('{"method": "a"}', "line 2: no field 'dataset'"),
        (
            json.dumps({"method": "a", "metric": "m", "value": 1, "dataset": "", "split": "", "protocol": "", "x": 1}),
            "'x'",
        ),
        (
            json.dumps({"method": "a", "metric": "m", "value": "1", "dataset": "", "split": "", "protocol": ""}),
            "value is '1', not a number",
        ),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, complaint):
    path = write_records(tmp_path / "r.jsonl", [record()])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=complaint):
        read_records(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl: cannot be read"):
        read_records(tmp_path / "none.jsonl")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = write_atomic(tmp_path / "f.txt", "old")
    with pytest.raises(TypeError):
        write_lines(path, [{"x": object()}])
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "\ud800")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f.txt"]


def test_line_separators_within_a_text_end_no_line(tmp_path):
    rows = [{"text": "one\u2028two\u0085three\x0b\n"}, {"text": ""}]
    assert [row for _, row in read_lines(write_lines(tmp_path / "r.jsonl", rows))] == rows
