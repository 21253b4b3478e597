"""`genseg report`: what it writes, and that it writes the same again."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.config import load_profile
from bench.data import rle
from bench.data.dataset import ExampleDataset
from bench.evaluate.metrics import score
from bench.records import write_records
from bench.report.build import build, verify
from bench.report.training_logs import Training, trainings
from methods.base import Example, UserError
from methods.files import write_lines

PUBLISHED = Path(__file__).parents[3] / "results" / "published"
TABLES = (
    "main",
    "accuracy",
    "ablation",
    "reconstruction",
    "latency",
    "claim",
    "claims",
    "published",
    "provenance",
    "training_cost",
)
FIGURES = ("summary", "latency_stages", "reconstruction_bound", "ablation_lengths", "training")
MASK = np.zeros((40, 60), bool)
MASK[10:20, 10:30] = True


@pytest.fixture
def profile(tmp_path, records):
    shutil.copytree(PUBLISHED, tmp_path / "results" / "published")
    write_records(tmp_path / "results" / "nano" / "records" / "all.jsonl", records)
    for name in ("himtok.val.per_expression", "baseline-empty.val.per_expression", "himtok.val.reconstruction-032"):
        protocol = name.split(".")[2].split("-")[0]
        row = {"dataset": "toy", "split": "val", "protocol": protocol, "ref_id": 1, "sent_id": 0, "expression": "it"}
        row |= {"mask": rle.encode(MASK), "method": name.split(".")[0].replace("-", ":")}
        row |= {"tokens": 32} if protocol == "reconstruction" else {}
        write_lines(tmp_path / "runs" / "scores" / f"{name}.jsonl", [row | score(MASK, MASK).as_dict()])
    write_lines(tmp_path / "runs" / "backbone" / "train.jsonl", [{"step": 1, "samples": 8, "loss": 2.0, "text": 1.0}])
    return tmp_path / "results" / "nano"


@pytest.fixture
def training(profile):
    return [Training("Backbone", "boxes", False, (profile.parents[1] / "runs" / "backbone",))]


@pytest.fixture
def no_figures(monkeypatch):
    """Figures take most of the time of a report."""
    monkeypatch.setattr("bench.report.build.figures_of", lambda *_: {})


def open_toy(dataset, split):
    assert (dataset, split) == ("toy", "val")
    return ExampleDataset([Example(Image.new("RGB", (60, 40)), ("it",), MASK, ref_id=1)])


def test_all_views_are_written_and_the_main_table_is_printed(profile, training, capsys):
    written = build(profile, profile.parents[1] / "runs", open_toy, training)
    names = {str(path.relative_to(profile)) for path in written}
    tables = {f"tables/{name}.{kind}" for name in TABLES for kind in ("md", "csv", "tex")}
    figures = {f"figures/{name}.{kind}" for name in FIGURES for kind in ("png", "svg", "pdf")}
    assert names == tables | figures | {"figures/examples.toy.val.per_expression.webp", "index.html"}
    assert all(path.stat().st_size for path in written)
    printed = capsys.readouterr().out
    assert "61.0 ± 2.5" in printed
    assert "81.1†" in printed
    assert "Published figures" in (profile / "tables" / "main.md").read_text()
    assert "latency" not in (profile / "tables" / "accuracy.md").read_text().lower()


@pytest.mark.slow
def test_a_second_build_writes_the_same_bytes(profile):
    first = {path: path.read_bytes() for path in build(profile, profile.parents[1] / "runs", open_toy)}
    assert {path: path.read_bytes() for path in build(profile, profile.parents[1] / "runs", open_toy)} == first


def test_every_changed_missing_or_left_over_file_is_named(profile):
    build(profile)
    assert {"tables/main.md", "figures/latency_stages.svg", "index.html"} <= set(verify(profile))
    table = profile / "tables" / "accuracy.csv"
    table.write_text(table.read_text().replace("61", "62", 1))
    (profile / "figures" / "reconstruction_bound.svg").unlink()
    (profile / "tables" / "old.md").write_text("")
    with pytest.raises(
        UserError, match="4 of .* the records give .*accuracy.csv, .*bound.svg, index.html, tables/old.md"
    ):
        verify(profile)


def test_views_that_no_record_gives_any_more_are_removed(profile, training):
    build(profile, training=training)
    (profile / "figures" / "mine.svg").write_text("mine")
    names = {path.name for path in build(profile)}
    assert "training.svg" not in names and not (profile / "figures" / "training.svg").exists()
    assert not (profile / "tables" / "training_cost.md").exists()
    assert (profile / "figures" / "mine.svg").exists()


@pytest.mark.parametrize("name", [pytest.param("nano", marks=pytest.mark.slow), "full", "mid"])
def test_the_bundled_results_are_what_their_records_give(name, monkeypatch):
    monkeypatch.chdir(PUBLISHED.parents[1])
    assert "index.html" in verify(PUBLISHED.parent / name, trainings(load_profile(name)))


@pytest.mark.usefixtures("no_figures")
def test_records_alone_are_enough(profile):
    shutil.rmtree(profile.parents[1] / "runs")
    shutil.rmtree(profile.parents[1] / "results" / "published")  # the bundled figures stand in
    names = {path.name for path in build(profile)}
    assert {"main.md", "published.md"} <= names
    assert "training_cost.md" not in names


@pytest.mark.usefixtures("no_figures")
def test_examples_whose_images_are_not_at_hand_are_left_out(profile, capsys):
    def nowhere(dataset, split):
        raise UserError("toy: has no refs.")

    for opened, reason in ((nowhere, "toy: has no refs."), (lambda *_: [], "There is no reference 1")):
        names = {path.name for path in build(profile, profile.parents[1] / "runs", opened)}
        assert "main.md" in names
        assert not any(name.startswith("examples") for name in names)
        assert f"Examples of toy val left out: {reason}" in capsys.readouterr().err


def test_without_records_there_is_one_clear_sentence(tmp_path):
    (tmp_path / "records").mkdir()
    with pytest.raises(UserError, match="no records there; run `make reproduce`"):
        build(tmp_path)
