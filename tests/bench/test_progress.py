"""The status line: quiet in a log file, honest about the time left."""

import pytest

from bench import progress
from bench.progress import Progress, clock


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3599, "59:59"), (3661, "1:01:01")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text


@pytest.fixture
def now(monkeypatch):
    """A clock that the test sets."""
    value = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: value[0])
    return value


def test_a_log_gets_a_line_each_half_minute_and_one_at_the_end(now, capsys):
    with Progress("train", 100, first=20) as line:
        for _ in range(80):
            now[0] += 1
            line.advance({"loss": 0.5, "_iou": 0.25})
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].startswith("train: 51/100  1/s  0:49 left  loss 0.500  iou 0.250")
    assert shown[-1] == "train: 100/100  1/s  took 1:20"
    assert len(shown) == 3


def test_a_terminal_is_rewritten_in_place(now, capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    with Progress("eval", 3) as line:
        for _ in range(3):
            now[0] += 1
            line.advance()
        line.note("a note")
    text = capsys.readouterr().err
    assert text.count("\r") == 5
    assert text.count("\n") == 2
    assert "eval: a note\n" in text


def test_a_long_line_is_cut_so_that_it_can_be_rewritten(now, capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    with Progress("train", 3) as line:
        now[0] += 1
        line.advance({f"value_{i}": 0.5 for i in range(20)})
    shown = capsys.readouterr().err.split("\033[K")[1:]
    assert [len(part.rstrip("\r\n")) for part in shown] == [39, len("train: 1/3  1/s  took 0:01")]


def test_a_failure_or_nothing_done_shows_no_end(now, capsys):
    with Progress("eval", 3):
        pass
    with pytest.raises(KeyError), Progress("eval", 3) as line:
        line.advance()
        raise KeyError
    assert capsys.readouterr().err == ""
