"""Small datasets, built once per test session."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.data.commands import build


@pytest.fixture(scope="session")
def easy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Level easy: 12 training scenes and three evaluation splits."""
    root = tmp_path_factory.mktemp("refmoji") / "easy"
    build("easy", root, splits=["val", "testA", "novel"], train_scenes=12, progress=False)
    return root


@pytest.fixture(scope="session")
def full_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Level full: 12 training scenes, with expressions for several objects and for none."""
    root = tmp_path_factory.mktemp("refmoji") / "full"
    build("full", root, splits=[], train_scenes=12, progress=False)
    return root


@pytest.fixture(scope="session")
def read() -> Any:
    """read(root, name) -> the content of a JSON file."""
    return lambda root, name: json.loads((root / name).read_text(encoding="utf-8"))
