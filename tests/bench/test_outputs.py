"""Nothing that genseg did not write is replaced or removed."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from bench import outputs
from bench.outputs import LIST, Outputs, check_lines
from bench.records import write_records
from methods.base import UserError

RESULTS = Path(__file__).parents[2] / "results"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_written_here_is_replaced(tmp_path):
    own = Outputs(tmp_path / "new")
    assert own.write({"a.txt": "1", "sub/b.bin": b"\0"}) == [tmp_path / "new/a.txt", tmp_path / "new/sub/b.bin"]
    own.write({"a.txt": "2"})
    assert (tmp_path / "new/a.txt").read_text() == "2"
    own.remove(["a.txt"])
    assert json.loads((tmp_path / "new" / LIST).read_text()).keys() == {"sub/b.bin"}


def test_only_our_own_unchanged_files_give_way(tmp_path):
    own = Outputs(tmp_path)
    own.write({"a/old.svg": "1", "a/changed.svg": "1", "a/new.svg": "1", "a/old.webp": "1", "old.svg": "1"})
    (tmp_path / "a" / "changed.svg").write_text("mine")
    (tmp_path / "a" / "mine.svg").write_text("mine")
    own.remove_others(["a/new.svg"], "a", (".svg",))
    assert contents(tmp_path).keys() - {LIST} == {"a/changed.svg", "a/mine.svg", "a/new.svg", "a/old.webp", "old.svg"}


@pytest.mark.parametrize("foreign", ["file", "changed", "folder", "link", "lost link"])
def test_what_is_another_s_stays_and_nothing_is_written(tmp_path, foreign):
    own, path = Outputs(tmp_path), tmp_path / "b.txt"
    if foreign == "changed":
        own.write({"b.txt": "ours"})
    if foreign in ("file", "changed"):
        path.write_text("mine")
    elif foreign == "folder":
        path.mkdir()
    else:
        (tmp_path / "elsewhere").write_text("mine")
        path.symlink_to("elsewhere" if foreign == "link" else "nowhere")
    before = contents(tmp_path)
    for act in (lambda: own.write({"a.txt": "1", "b.txt": "2"}), lambda: own.remove(["b.txt"])):
        with pytest.raises(UserError, match=r"b\.txt: was not written by genseg"):
            act()
    assert contents(tmp_path) == before
    assert os.path.lexists(path)


def test_the_same_content_is_nobody_s_loss(tmp_path):
    (tmp_path / "a.txt").write_text("1")
    Outputs(tmp_path).write({"a.txt": "1"})
    Outputs(tmp_path).write({"a.txt": "2"})


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_any_file_leaves_nothing_that_is_refused(tmp_path, monkeypatch, when):
    own = Outputs(tmp_path)
    own.write({"a": "1", "b": "1"})

    def killed(path, content):
        if Path(path).name == "a" and when == "after":
            Path(path).write_bytes(content)
        if Path(path).name == "a":
            raise KeyboardInterrupt
        return write_atomic(path, content)

    write_atomic = outputs.write_atomic
    monkeypatch.setattr(outputs, "write_atomic", killed)
    with pytest.raises(KeyboardInterrupt):
        own.write({"a": "2", "b": "2"})
    monkeypatch.undo()
    own.write({"a": "3", "b": "3"})
    assert [(tmp_path / name).read_text() for name in "ab"] == ["3", "3"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    own, source = Outputs(tmp_path / "out"), tmp_path / "source"
    source.mkdir()
    for name in ("config.json", "weights-1", "weights-2"):
        (source / name).write_text(name)
    assert own.write_folder("model", source, "config.json") == tmp_path / "out" / "model"
    (source / "weights-2").unlink()
    (source / "weights-1").write_text("others")
    own.write_folder("model", source, "config.json")
    assert contents(tmp_path / "out" / "model") == contents(source)
    (tmp_path / "out" / "model" / "notes.txt").write_text("mine")
    (source / "weights-1").write_text("again others")
    before = contents(tmp_path / "out")
    with pytest.raises(UserError, match=r"notes\.txt: was not written by genseg"):
        own.write_folder("model", source, "config.json")
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("text", ["[]", '{"a": 1}', "x"])
def test_a_list_of_another_s_making_is_refused(tmp_path, text):
    (tmp_path / LIST).write_text(text)
    with pytest.raises(UserError, match=r"written\.json"):
        Outputs(tmp_path).write({"a": "1"})
    assert (tmp_path / LIST).read_text() == text


def test_lines_are_known_by_their_fields(tmp_path):
    path = tmp_path / "x.jsonl"
    check_lines(path, ["metric"])
    path.write_text('{"metric": 1}\n')
    check_lines(path, ["metric"])
    for text in ('{"notes": 1}\n', "my notes", ""):
        path.write_text(text)
        with pytest.raises(UserError, match="holds something else"):
            write_records(path, [])
        assert path.read_text() == text


def test_the_shipped_results_are_as_they_were_written():
    """Or `genseg report` would refuse to write them again; make them again with it, do not edit them."""
    tracked = subprocess.run(["git", "ls-files", "results"], cwd=RESULTS.parent, capture_output=True, text=True)
    names = [RESULTS.parent / name for name in tracked.stdout.split()]
    for folder in {path.parents[len(path.relative_to(RESULTS).parts) - 2] for path in names} - {RESULTS / "published"}:
        made = (path for path in names if path.is_relative_to(folder))
        views = [str(path.relative_to(folder)) for path in made if path.suffix in {".html", ".csv", ".tex", ".svg"}]
        Outputs(folder).check(views)
