"""The validation page of a mask tokenizer, by its command."""

import json

import numpy as np
import pytest
from PIL import Image

from bench.cli import main
from bench.data import rle
from bench.records import read_records
from bench.report.reconstruction_page import worst_sheet
from methods.base import Example


@pytest.fixture
def masks(tmp_path):
    """Three masks in COCO's form, without images."""
    rectangles = [np.zeros((40, 60), bool) for _ in range(3)]
    for number, mask in enumerate(rectangles):
        mask[5 * number : 5 * number + 12, 0 if number == 1 else 9 : 30] = True
    document = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 60, "height": 40} for n in range(3)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "segmentation": rle.encode(mask)}
            for n, mask in enumerate(rectangles)
        ],
        "categories": [{"id": 1, "name": "<b>box</b>"}],
    }
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/val.json").write_text(json.dumps(document))
    return tmp_path / "masks"


def test_the_page_its_tables_and_records(writer, masks, tmp_path, capsys):
    run = tmp_path / "run"
    writer.save_pretrained(run / "model")
    values = [{"step": n, "samples": 32 * n, "giou": 0.1 * n, "shapes/all": 0.05 * n} for n in (1, 2, 3)]
    (run / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in values))
    page = tmp_path / "page"
    words = ["reconstruct", str(page), f"checkpoint={run / 'model'}", "dataset=coco-masks", f"root={masks}"]
    words += ["split=val", "shapes=1"]
    main(words)
    told = capsys.readouterr().out
    assert "Reconstruction by number of tokens" in told and "Shape test" in told
    records = read_records(page / "records.jsonl")
    assert {r.n for r in records if r.dataset == "coco-masks" and not r.group} == {3}
    assert {r.split for r in records if r.dataset == "shapes"} >= {"tall", "ring", "all", "resize"}
    assert all(r.checkpoint and r.date for r in records)
    text = (page / "index.html").read_text()
    assert "Worst masks" in text and "at the left border" in text and 'src="curve.svg"' in text
    for name in ("tokens", "groups", "shapes", "codebook"):
        assert {path.suffix for path in (page / "tables").glob(f"{name}.*")} == {".md", ".csv", ".tex"}
    assert Image.open(page / "worst.png").width > 100
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2 and "is there already" in capsys.readouterr().err


def test_the_shape_test_alone(writer, tmp_path):
    writer.save_pretrained(tmp_path / "model")
    main(["reconstruct", str(tmp_path / "page"), f"checkpoint={tmp_path / 'model'}", "shapes=1"])
    assert {r.dataset for r in read_records(tmp_path / "page/records.jsonl")} == {"shapes"}
    assert not (tmp_path / "page/worst.png").exists()


def test_the_sheet_shows_what_is_missed_and_what_is_added():
    truth, again = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    truth[:10], again[5:15] = True, True
    sheet = worst_sheet([(Example(None, ("",), truth, ref_id=7), again, 1 / 3)])
    colours = {colour for _, colour in sheet.getcolors(10_000)}
    assert {(213, 94, 0), (0, 114, 178), (120, 120, 120)} <= colours
