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


def test_a_terminal_gets_a_bar_and_notes_that_stay(now, capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with Progress("eval [b]", 3) as line:
        for _ in range(3):
            now[0] += 1
            line.advance({"loss": 0.5})
        line.note("a [note]")
    text = capsys.readouterr().err
    assert "eval [b]: a [note]\n" in text
    assert "3/3" in text
    assert text.splitlines()[-1].endswith("eval [b]: 3/3  1/s  took 0:03")


def test_a_quiet_run_shows_nothing(now, capsys):
    with Progress("build", 2, quiet=True) as line:
        now[0] += 100
        line.advance(by=2)
    assert capsys.readouterr().err == ""


def test_a_failure_or_nothing_done_shows_no_end(now, capsys):
    with Progress("eval", 3):
        pass
    with pytest.raises(KeyError), Progress("eval", 3) as line:
        line.advance()
        raise KeyError
    assert capsys.readouterr().err == ""
