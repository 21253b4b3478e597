"""What is printed of a user's text: names of files, labels, whatever stood in a file."""

from __future__ import annotations

from typing import Any

from rich.markup import escape

from methods.files import printable


def cell(value: Any) -> str:
    """A value for rich to print: one line, in which nothing is markup and nothing steers the terminal."""
    return escape(printable(value))


def short(count: float) -> str:
    """A large number in a few characters, as 8.728 B, 12.5 M or 3 k."""
    for unit, letter in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if count >= unit:
            return f"{count / unit:.4g}{letter}"
    return f"{count:.0f}"
