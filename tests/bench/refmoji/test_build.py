"""Building: the same bytes whatever happens on the way, and splits that keep apart."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli.datasets import build, check
from bench.refmoji import build as building
from bench.refmoji import manifest
from bench.refmoji.levels import LEVELS, classes, level_named
from methods.base import UserError


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def small(root: Path, **options) -> dict:
    return build("easy", root, splits=[], train_scenes=10, progress=False, **options)


def test_two_builds_and_two_workers_give_the_same_bytes(tmp_path, monkeypatch):
    small(tmp_path / "one")
    monkeypatch.setattr(building, "SHARD", 3)
    small(tmp_path / "two", workers=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_a_killed_build_resumes_and_ends_in_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "SHARD", 3)
    small(tmp_path / "whole")
    made: list[int] = []
    original = building._scene_record

    def dies(root, plan, split, index):
        if index == 7:
            raise KeyboardInterrupt
        made.append(index)
        return original(root, plan, split, index)

    monkeypatch.setattr(building, "_scene_record", dies)
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path / "killed")
    assert not (tmp_path / "killed" / "dataset.json").exists()
    resumed: list[int] = []
    monkeypatch.setattr(building, "_scene_record", lambda *args: (resumed.append(args[3]), original(*args))[1])
    small(tmp_path / "killed")
    assert resumed == [6, 7, 8, 9]  # the first two shards were finished
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


@pytest.mark.slow
def test_builds_at_once_wait_for_each_other_and_end_as_one_alone(tmp_path):
    root = tmp_path / "both"
    words = "data", "build", f"root={root}", "splits=val", "workers=2"
    command = [sys.executable, "-c", "from bench.cli import main; main()", *words]
    with building._alone(root):
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        running = [subprocess.Popen(command, **pipes) for _ in range(2)]
        for process in running:
            assert process.stderr.readline().endswith("both: another process is building here; waiting for it.\n")
    said = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert sorted(bool(text) for text in said) == [False, True]  # one has built, and says how long it took
    check(root)
    build("easy", tmp_path / "alone", splits=["val"], progress=False)
    assert digests(root) == digests(tmp_path / "alone")


def test_a_finished_build_is_not_repeated(easy_root, monkeypatch):
    monkeypatch.setattr(building, "_scene_record", lambda *args: pytest.fail("rendered again"))
    summary = build("easy", easy_root, splits=["val", "testA", "novel"], train_scenes=12, progress=False)
    assert summary["counts"]["train"]["images"] == 12


def test_another_dataset_in_the_folder_is_refused(easy_root):
    with pytest.raises(UserError, match="holds RefMoji with seed 0, not 5"):
        build("easy", easy_root, train_scenes=12, seed=5, progress=False)
    with pytest.raises(UserError, match="holds RefMoji with level 'easy'"):
        build("full", easy_root, train_scenes=12, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "hard"}, "no level 'hard'; choose one of easy, medium, full"),
        ({"splits": ["multi"]}, "no split 'multi'; choose from train, val"),
        ({"splits": ["train"]}, "needs train_scenes"),
        ({"splits": []}, "Nothing to build"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        build(root=tmp_path, progress=False, **options)


def test_the_seed_changes_training_only(tmp_path):
    small(tmp_path / "a")
    small(tmp_path / "b", seed=1)
    assert digests(tmp_path / "a")["instances.json"] != digests(tmp_path / "b")["instances.json"]
    assert building.plan_of("easy", ["val"], 0, 1).scenes == building.plan_of("easy", ["val"], 0, 0).scenes


@pytest.mark.parametrize("level", LEVELS)
def test_held_out_classes_share_no_head_noun_with_training(level):
    trained, novel = classes(level)
    assert not {entry.head for entry in trained} & {entry.head for entry in novel}
    assert not any(entry.person for entry in novel)
    easy_trained, easy_novel = classes("easy")
    assert {entry.head for entry in easy_trained} <= {entry.head for entry in trained}
    assert {entry.head for entry in easy_novel} <= {entry.head for entry in novel}


def test_splits_show_different_images_and_no_held_out_class(easy_root, read):
    data = read(easy_root, "instances.json")
    split_of = {image["id"]: image["split"] for image in data["images"]}
    novel = {category["id"] for category in data["categories"] if category["novel"]}
    shown: dict[str, set[str]] = {}
    for annotation in data["annotations"]:
        split = split_of[annotation["image_id"]]
        shown.setdefault(split, set()).add(annotation["segmentation"]["counts"])
        assert split == "novel" or annotation["category_id"] not in novel
    assert not shown["train"] & shown["val"] and not shown["val"] & shown["testA"]


@pytest.mark.parametrize("level", LEVELS)
def test_frozen_questions_follow_from_their_seeds(level):
    manifest.verify(level_named(level), scenes=2)
    for split, wanted in LEVELS[level].splits.items():
        scenes = manifest.load(level)[split]
        assert sum(len(scene["referents"]) for scene in scenes) == wanted
    assert manifest.manifest_path(level).stat().st_size < 600_000


def test_the_digest_is_that_of_the_files(easy_root, read):
    digest = hashlib.sha256()
    for name in (building.INSTANCES, building.REFS, building.CAPTIONS):
        digest.update((easy_root / name).read_bytes())
    assert read(easy_root, "dataset.json")["digest"] == digest.hexdigest()


def test_check_passes_and_counts(easy_root, full_root):
    rows = {row["split"]: row for row in check(easy_root)}
    assert rows["val"]["referents"] == 350 and rows["testA"]["referents"] == 250
    assert 0.06 < rows["val"]["small"] < 0.2  # about 13 % of the referents
    assert rows["val"]["same class"] > 0.45 and rows["val"]["occluded"] < 0.2
    (row,) = check(full_root)
    assert {"refcoco", "refcoco+", "refcocog"} <= row["styles"].keys()
