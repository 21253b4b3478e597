"""The files of the browser: what they hold, what they leave alone."""

import json
import re

import numpy as np
import pytest

from bench.data import rle
from bench.report.browser import write
from bench.report.browser.samples import read_samples
from methods.base import UserError

METHODS = ["himtok", "argenseg"]
STEP = np.ones((48, 64), bool)


@pytest.fixture
def drawn(scores, dataset):
    steps = {"himtok": {"examples/val/per_expression/0/0": [(1, STEP)]}}
    return write.draw(read_samples(scores), METHODS, lambda *_: dataset, steps)


@pytest.fixture
def head(scores):
    return write.head_of("a run", METHODS, read_samples(scores))


def told(script, name):
    """The values of a script's call."""
    body = re.fullmatch(rf"genseg\.{name}\((.*)\);\n", script, re.S)[1]
    return json.loads(f"[{body}]")


def test_a_folder_holds_page_samples_masks_and_each_image_once(drawn, head):
    files = write.folder_files(head, drawn)
    assert list(files) == ["images/0000.webp", "images/0001.webp", "masks/0000.js", "samples.js", "index.html"]
    (found,) = told(files["samples.js"], "samples")
    assert found["methods"] == ["HiMTok", "ARGenSeg"]
    assert [sample["image"] for sample in found["samples"]] == [0, 0, 1, 1]
    assert [sample["stepped"] for sample in found["samples"]] == [True, False, False, False]
    number, masks = told(files["masks/0000.js"], "masks")
    assert number == 0
    assert masks[3]["answers"][1] is None
    ((count, runs, iou),) = masks[0]["steps"][0]
    assert count == 1
    assert rle.decode({"size": [48, 64], "counts": runs}).all()
    assert iou == pytest.approx(400 / 3072, abs=1e-4)


def test_hostile_text_cannot_leave_its_string(drawn, head):
    script = write.folder_files(head, drawn)["samples.js"]
    assert not set("<>&\u2028\u202e") & set(script)
    assert told(script, "samples")[0]["samples"][2]["text"].startswith("</script><img")
    page = write.one_page(dict(head, title="<b>x</b>"), drawn)
    assert "<b>x</b>" not in page.split("<script>")[0]
    assert page.count("</script>") == 1


def test_one_page_holds_its_images(drawn, head):
    page = write.one_page(head, drawn)
    assert page.count("data:image/webp;base64,") == 2
    assert 'src="samples.js"' not in page


def test_large_masks_are_kept_small(monkeypatch, scores, dataset):
    monkeypatch.setattr(write, "SIDE", 32)
    drawn = write.draw(read_samples(scores)[:1], METHODS, lambda *_: dataset, {})
    assert drawn.samples[0]["frame"] == [24, 32]
    assert drawn.samples[0]["whole"] == [48, 64]
    small = rle.decode({"size": [24, 32], "counts": drawn.masks[0]["truth"]})
    assert small.mean() == pytest.approx(400 / 3072, rel=0.15)


def test_a_smaller_browser_takes_the_place_of_a_larger_one_and_foreign_files_stay(tmp_path, drawn, head):
    folder = tmp_path / "browser"
    write.write_files(folder, write.folder_files(head, drawn))
    write.write_files(folder, {"index.html": write.one_page(head, drawn)})
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["index.html", "written.json"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="notes.txt"):
        write.write_files(folder, write.folder_files(head, drawn))
    assert not (folder / "samples.js").exists()


def test_a_dataset_that_is_not_at_hand_is_left_out_with_a_sentence(scores, capsys):
    def missing(*_):
        raise UserError("no such folder; give data.root=FOLDER.")

    with pytest.raises(UserError, match=r"data\.root"):
        write.draw(read_samples(scores), METHODS, missing, {})
    assert "Samples of examples val per_expression left out: no such folder" in capsys.readouterr().err
