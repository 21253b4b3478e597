"""The command line, called in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from bench.cli import main


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The sentence on stderr; what a profile prints before it is left out."""
        return next((line for line in self.err.splitlines() if line.startswith("genseg: ")), "")


@pytest.fixture
def genseg(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """genseg("segment", path, ...) -> exit code, stdout, stderr."""

    def run(*words: object) -> Result:
        code = 0
        try:
            main([str(word) for word in words])
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
        return Result(code, *capsys.readouterr())

    return run
