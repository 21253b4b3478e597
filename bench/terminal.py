"""What is printed of a user's text: names of files, labels, whatever stood in a file."""

from __future__ import annotations

from typing import Any

from rich.markup import escape

from methods.files import printable


def cell(value: Any) -> str:
    """A value for rich to print: one line, in which nothing is markup and nothing steers the terminal."""
    return escape(printable(value))
