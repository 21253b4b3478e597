"""The whole way on the embedded dataset."""

import pytest

from bench.records import read_records
from bench.refmoji import prepare


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The embedded dataset: its validation split and a few training scenes."""
    root = tmp_path_factory.mktemp("refmoji")
    prepare.build("easy", root / "eval", splits=["val"], progress=False)
    prepare.build("easy", root / "train-6", splits=["train"], train_scenes=6, progress=False)
    return root


@pytest.mark.slow
def test_reproduce_trains_evaluates_times_and_reports(folder, profile_in, data, monkeypatch, genseg):
    """From scratch to the tables; evaluating and timing again does nothing again and leaves every byte as it was."""
    real = prepare.build
    monkeypatch.setattr(
        prepare,
        "build",
        lambda level, root, splits=None, *given, **words: real(
            level, root, splits or ["val"], *given, **words, progress=False
        ),
    )
    profile = profile_in(data)
    words = [f"profile={folder / 'small.yaml'}", "evaluate.protocols=[per_expression]"]
    result = genseg("reproduce", *words)
    assert result.code == 0, result.err
    assert "himtok" in result.out
    tables = {path.name for path in (profile.results_dir / "tables").glob("*.md")}
    assert {"accuracy.md", "reconstruction.md", "latency.md", "main.md"} <= tables
    figures = {path.name for path in (profile.results_dir / "figures").iterdir()}
    assert "examples.refmoji.val.per_expression.webp" in figures
    records = read_records(profile.results_dir / "records")
    assert {"boxes", "himtok", "argenseg", "baseline:empty"} <= {record.method for record in records}
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for command in ("train", "eval", "latency"):
        assert genseg(command, *words).code == 0
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert before.keys() == after.keys()
    assert [str(path) for path in before if before[path] != after[path]] == []
