"""Which logs belong together, what they are called, and what the training cost."""

from pathlib import Path

import pytest

from bench.config import load_profile
from bench.report.training_logs import Training, training_cost, trainings
from methods.files import write_lines

ROOT = Path(__file__).parents[3]


@pytest.fixture
def profile(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return load_profile("nano")


def log(folder, samples=8, **speed):
    write_lines(folder / "train.jsonl", [{"step": 1, "samples": samples, "loss": 1.0}])
    if speed:
        write_lines(folder / "speed.jsonl", [{"step": 1, "samples": samples} | speed])


def test_stages_that_went_on_from_each_other_are_one_training(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = trainings(load_profile("nano"))
    assert [(each.what, [folder.name for folder in each.folders]) for each in found] == [
        ("ARGenSeg, mask tokenizer", ["argenseg_tokenizer"]),
        ("HiMTok, mask tokenizer", ["himtok_tokenizer", "himtok_tokenizer_long"]),
        ("ARGenSeg", ["argenseg", "argenseg_more", "argenseg_last"]),
        ("backbone", ["backbone"]),
        ("HiMTok", ["himtok_align", "himtok", "himtok_more", "himtok_last"]),
    ]


def test_what_ran_here_stands_in_for_what_is_not_bundled(profile):
    assert trainings(profile) == []
    log(profile.runs_dir / "argenseg_more")  # the stage before it has no log
    assert [each.folders for each in trainings(profile)] == [(profile.runs_dir / "argenseg_more",)]
    log(profile.results_dir / "logs" / "argenseg")
    assert [each.folders for each in trainings(profile)] == [(profile.results_dir / "logs" / "argenseg",)]


def test_without_models_all_stages_count_and_like_names_tell_their_stage(profile):
    profile.models = {}
    for name in ("argenseg_causal", "argenseg_full"):
        log(profile.runs_dir / name)
    assert [each.name for each in trainings(profile)] == ["ARGenSeg (argenseg_causal)", "ARGenSeg (argenseg_full)"]


def test_cost_adds_up_and_is_left_open_where_a_stage_has_no_times(tmp_path):
    log(tmp_path / "a", 1000, seconds=1800.0, processes=2, device="a GPU")
    log(tmp_path / "b", 2000, seconds=5400.0, processes=2, device="a GPU")
    log(tmp_path / "c", 4000)
    both = Training("HiMTok", "himtok", False, (tmp_path / "a", tmp_path / "b"))
    other = Training("HiMTok", "himtok", True, (tmp_path / "c",))
    (table,) = training_cost([both, other])
    assert table.cells() == [
        ["HiMTok", "2", "3,000", "2.00", "0.4", "2 x a GPU"],
        ["HiMTok, mask tokenizer", "1", "4,000", "–", "–", "–"],
    ]
    assert [note.split()[0] for note in table.notes] == ["Hours:", "Where"]
    assert [column.key for column in training_cost([other])[0].columns] == ["what", "stages", "samples"]
    assert training_cost([]) == []
