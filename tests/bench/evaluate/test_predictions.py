"""A predictions file is the same bytes whether it was written in one go or after any number of kills."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data import rle
from bench.evaluate.predictions import line, stamp_of, write_predictions
from bench.records import RECONSTRUCTION
from methods.base import Prediction, UserError

TEXTS = ["plain", "naïve café", "紅い車", "a\u2028b", "next\u0085line", "tab\tand\nnewline", "🚗", ""]


def answer(items):
    """One line per item; the batch's members stand in it, because real answers may depend on them."""
    return [{"item": item, "text": TEXTS[item % len(TEXTS)], "batch": list(items)} for item in items]


def whole(folder: Path, count: int = 11, batch: int = 3) -> bytes:
    return write_predictions(folder / "whole.jsonl", "s", range(count), batch, answer).read_bytes()


def lines_of(content: bytes) -> list[dict]:
    return [json.loads(row) for row in content.split(b"\n") if row]


def test_every_item_has_its_line_in_order(tmp_path):
    rows = lines_of(whole(tmp_path))
    assert [row["item"] for row in rows] == list(range(11))
    assert [row["text"] for row in rows[:8]] == TEXTS
    assert rows[10]["batch"] == [9, 10]
    assert not (tmp_path / "whole.part").exists()


@settings(max_examples=120, deadline=None)
@given(st.data(), st.integers(1, 5))
def test_a_part_cut_at_any_byte_is_completed_to_the_same_bytes(tmp_path_factory, data, batch):
    folder = tmp_path_factory.mktemp("cut")
    expected = whole(folder, batch=batch)
    (folder / "cut.stamp").write_text("s")
    (folder / "cut.part").write_bytes(expected[: data.draw(st.integers(0, len(expected)))])
    asked = []
    path = write_predictions(
        folder / "cut.jsonl", "s", range(11), batch, lambda items: asked.extend(items) or answer(items)
    )
    assert path.read_bytes() == expected
    assert asked == list(range(11 - len(asked), 11))


def test_finished_batches_are_not_answered_again(tmp_path):
    expected = whole(tmp_path)
    cut = expected.split(b"\n")
    (tmp_path / "again.stamp").write_text("s")
    (tmp_path / "again.part").write_bytes(b"\n".join(cut[:7]) + b"\n" + cut[7][:5])
    asked = []
    write_predictions(
        tmp_path / "again.jsonl", "s", range(11), 3, lambda items: asked.append(items[0]) or answer(items)
    )
    assert asked == [6, 9]


def test_a_crash_keeps_what_was_written(tmp_path):
    def failing(items):
        if 6 in items:
            raise RuntimeError("killed")
        return answer(items)

    with pytest.raises(RuntimeError, match="killed"):
        write_predictions(tmp_path / "a.jsonl", "s", range(11), 3, failing)
    assert len(lines_of((tmp_path / "a.part").read_bytes())) == 6
    assert not (tmp_path / "a.jsonl").exists()
    assert write_predictions(tmp_path / "a.jsonl", "s", range(11), 3, answer).read_bytes() == whole(tmp_path)


def test_a_finished_file_is_left_alone(tmp_path):
    expected = whole(tmp_path)
    write_predictions(tmp_path / "whole.jsonl", "s", range(11), 3, lambda items: pytest.fail("asked again"))
    assert (tmp_path / "whole.jsonl").read_bytes() == expected


@pytest.mark.parametrize("name", ["a.jsonl", "a.part"])
def test_another_stamp_starts_over(tmp_path, name):
    (tmp_path / "a.stamp").write_text("old")
    (tmp_path / name).write_text('{"item": "stale"}\n' * 3)
    write_predictions(tmp_path / "a.jsonl", "new", range(11), 3, answer)
    assert (tmp_path / "a.jsonl").read_bytes() == whole(tmp_path)
    assert (tmp_path / "a.stamp").read_text() == "new"


@pytest.mark.parametrize("name", ["a.part", "a.jsonl"])
def test_a_file_without_a_stamp_is_another_s_and_stays(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name}: was not written by genseg"):
        write_predictions(tmp_path / "a.jsonl", "s", range(11), 3, answer)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_file_that_another_process_writes_is_left_to_it(tmp_path):
    """The other one is this process, in the middle of its work."""
    asked = []

    def meanwhile(items):
        if not asked:
            asked.append(items)
            for stamp in ("s", "other"):
                with pytest.raises(UserError, match=r"a.part: another command is writing there; wait for it"):
                    write_predictions(tmp_path / "a.jsonl", stamp, range(11), 3, answer)
        return answer(items)

    assert write_predictions(tmp_path / "a.jsonl", "s", range(11), 3, meanwhile).read_bytes() == whole(tmp_path)
    assert asked
    assert {path.name for path in tmp_path.glob("a.*")} == {"a.jsonl", "a.stamp"}


def test_the_part_stays_locked_after_a_resumption(tmp_path):
    (tmp_path / "a.stamp").write_text("s")
    (tmp_path / "a.part").write_bytes(whole(tmp_path)[:-5])

    def refused(items):
        with pytest.raises(UserError, match="another command"):
            write_predictions(tmp_path / "a.jsonl", "s", range(11), 3, answer)
        return answer(items)

    assert write_predictions(tmp_path / "a.jsonl", "s", range(11), 3, refused).read_bytes() == whole(tmp_path)


class Together:
    """A context of several processes, played by threads of this one."""

    def __init__(self, rank: int, size: int, barrier: Barrier, said: list):
        self.rank, self.size, self.barrier, self.said = rank, size, barrier, said
        self.first = rank == 0

    def gather(self, value):
        self.said[self.rank] = value
        self.barrier.wait(60)
        everyone = list(self.said)
        self.barrier.wait(60)
        return everyone

    def wait(self) -> None:
        self.gather(None)


def together(size: int, path: Path, count: int, batch: int) -> list[list[int]]:
    """Write a file in several processes -> the items that each has answered."""
    barrier, said, asked = Barrier(size), [None] * size, [[] for _ in range(size)]

    def run(rank: int) -> Path:
        def tell(items):
            asked[rank] += items
            return answer(items)

        return write_predictions(path, "s", range(count), batch, tell, Together(rank, size, barrier, said))

    with ThreadPoolExecutor(size) as pool:
        assert set(pool.map(run, range(size))) == {path}
    return asked


@pytest.mark.parametrize("size", [2, 3, 8])
def test_many_processes_write_the_same_bytes_and_answer_nothing_twice(tmp_path, size):
    expected = whole(tmp_path)
    asked = together(size, tmp_path / "many.jsonl", 11, 3)
    assert (tmp_path / "many.jsonl").read_bytes() == expected
    assert sorted(item for each in asked for item in each) == list(range(11))
    assert {path.name for path in tmp_path.glob("many*")} == {"many.jsonl", "many.stamp"}
    assert together(size, tmp_path / "many.jsonl", 11, 3) == [[] for _ in range(size)]


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(1, 4))
def test_what_any_number_of_processes_left_is_completed_by_any_other(tmp_path_factory, data, batch, size):
    """Parts begin at any batch and end anywhere; they may even overlap, as after a kill while they were joined."""
    folder = tmp_path_factory.mktemp("left")
    expected = whole(folder, batch=batch)
    rows = expected.splitlines(keepends=True)
    (folder / "left.stamp").write_text("s")
    for start in data.draw(st.sets(st.integers(0, (len(rows) - 1) // batch), max_size=4)):
        content = b"".join(rows[start * batch :])
        name = f"left.part{start or ''}"
        (folder / name).write_bytes(content[: data.draw(st.integers(0, len(content)))])
    together(size, folder / "left.jsonl", 11, batch)
    assert (folder / "left.jsonl").read_bytes() == expected
    assert {path.name for path in folder.glob("left*")} == {"left.jsonl", "left.stamp"}


def test_no_items_make_an_empty_file(tmp_path):
    assert write_predictions(tmp_path / "a.jsonl", "s", [], 3, answer).read_bytes() == b""


def test_stamps_depend_on_every_fact_and_not_on_their_order():
    first = stamp_of(method="a", limit=3, path=Path("x"))
    assert first == stamp_of(path=Path("x"), limit=3, method="a")
    others = [dict(method="b", limit=3, path=Path("x")), dict(method="a", limit=4, path=Path("x")),
              dict(method="a", limit=3, path=Path("y")), dict(method="a", limit=3)]  # fmt: skip
    assert first not in {stamp_of(**facts) for facts in others}


def test_a_line_holds_the_answer(examples):
    mask = np.zeros((48, 64), bool)
    mask[3:9, 5:20] = True
    prediction = Prediction(mask, box=(1.0, 2.0, 3.0, 4.0), text="it", token_ids=(4, 5), steps=7, failure="cut")
    row = json.loads(json.dumps(line(examples[0], prediction, "per_expression", 1, ("one", "two"))))
    assert np.array_equal(rle.decode(row.pop("mask")), mask)
    assert row == {
        "dataset": "squares", "split": "val", "protocol": "per_expression", "ref_id": "1-red", "sent_id": 1,
        "image_id": 1, "expression": "one | two", "size": [48, 64], "box": [1.0, 2.0, 3.0, 4.0], "text": "it",
        "token_ids": [4, 5], "steps": 7, "failure": "cut",
    }  # fmt: skip
    assert line(examples[0], Prediction(mask), RECONSTRUCTION, -1, ("one",))["box"] is None
