"""Nothing of a user's text steers the terminal or is read as markup."""

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from bench.cli.parity import _report
from bench.progress import Progress
from bench.report import layout
from bench.terminal import cell
from methods.check import Check

HOSTILE = "[bold red]x[/] [link=file:///etc]y \x1b[2J\x07\r\n\x9b1m\u202e\udce9 [/nothing] \\"


def printed(*things) -> str:
    console = Console(file=io.StringIO(), width=400, color_system=None)
    for each in things:
        console.print(each)
    return console.file.getvalue()


def is_harmless(text: str) -> bool:
    return all(c == "\n" or c.isprintable() for c in text) and "[bold red]x[/] [link=file:///etc]y" in text


@given(st.text(st.characters()))
def test_any_text_is_printed_as_it_is_but_for_what_cannot_be(text):
    shown = printed(cell("|" + text + "|")).removesuffix("\n").replace("\n", "")
    assert all(c.isprintable() for c in shown)
    if text.isprintable() and "  " not in text and len(text) < 300:
        assert shown == f"|{text}|"


def test_tables_of_results():
    table = layout.Table(HOSTILE, [layout.Column("name", HOSTILE)], [{"name": HOSTILE}], [HOSTILE])
    console = Console(file=io.StringIO(), width=400, color_system=None)
    layout.print_table(table, console)
    assert is_harmless(console.file.getvalue())


def test_reference_vectors(tmp_path, capsys):
    class Vectors:
        @staticmethod
        def check(folder):
            return [Check(HOSTILE, HOSTILE, HOSTILE, True)]

    _report(tmp_path / "[bold red]x[", Vectors)
    shown = capsys.readouterr().out
    assert "[bold red]x[" in shown and "\x1b" not in shown and "\x07" not in shown


@pytest.mark.parametrize("terminal", [False, True])
def test_progress(capsys, monkeypatch, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    with Progress(HOSTILE, 2) as progress:
        progress.note(HOSTILE)
        progress.advance({HOSTILE: 1.0}, by=2)
    shown = capsys.readouterr().err
    assert "\x07" not in shown and "\x1b[2J" not in shown and "\x9b" not in shown
    assert "[bold red]x[/]" in shown.replace("\n", "")


def test_a_cell_in_a_table_of_rich():
    table = Table(cell(HOSTILE), title=cell(HOSTILE))
    table.add_row(cell(HOSTILE))
    assert is_harmless(printed(table))
