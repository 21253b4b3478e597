"""Our metrics against independent answers: integers exactly, reals within 1e-9."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench.data import rle
from bench.evaluate.parity import check
from methods.base import UserError

GOLDENS = Path(__file__).parents[2] / "goldens" / "metrics"


def test_every_pair_and_the_aggregate_agree():
    results = check(GOLDENS)
    pairs = json.loads((GOLDENS / "metrics.json").read_text())["pairs"]
    assert len(pairs) == 39
    agreeing = {result.name: result.value for result in results}
    assert agreeing["intersection"] == agreeing["iou"] == "39 of 39"
    assert agreeing["bf"] == f"{sum('bf' in pair for pair in pairs)} of {sum('bf' in pair for pair in pairs)}"
    assert {"aggregate: ciou", "aggregate: acc@0.9", "aggregate: mask_acc@0.9"} < agreeing.keys()
    assert [result for result in results if not result.ok] == []


def test_a_changed_answer_is_noticed(tmp_path):
    content = json.loads((GOLDENS / "metrics.json").read_text())
    content["pairs"][0]["intersection"] += 1
    content["pairs"][1]["bf"] += 2e-9
    content["pairs"][2]["bf_precision"] = None
    content["aggregate_without_ignore"]["acc"]["0.9"] += 0.01
    (tmp_path / "changed.json").write_text(json.dumps(content))
    wrong = {result.name: result.value for result in check(tmp_path) if not result.ok}
    first, second, third = (pair["name"] for pair in content["pairs"][:3])
    assert wrong.keys() == {"intersection", "bf", "bf_precision", "aggregate: acc@0.9", "aggregate: mask_acc@0.9"}
    assert wrong["intersection"].startswith(f"1 of 39 differ; {first}: ")
    assert wrong["bf"].startswith(f"1 of 38 differ; {second}: ")
    assert wrong["bf_precision"].startswith(f"1 of 38 differ; {third}: ")


def test_ignored_pixels_a_missing_answer_and_no_ignore_at_all(tmp_path):
    """A bump that lies in the ignored region changes no boundary; null is an empty mask."""
    gt = np.zeros((60, 60), bool)
    gt[10:40, 10:40] = True
    bump, ignore = gt.copy(), np.zeros_like(gt)
    bump[20:30, 40:50] = ignore[18:32, 40:52] = True
    pairs = [
        {"name": "bump", "pred": rle.encode(bump), "gt": rle.encode(gt), "ignore": rle.encode(ignore), "bf": 1.0,
         "bf_nonstrict": 1.0},
        {"name": "nothing", "pred": None, "gt": rle.encode(gt), "iou": 0.0, "box_pred": None},
    ]  # fmt: skip
    (tmp_path / "own.json").write_text(json.dumps({"pairs": pairs}))
    results = check(tmp_path)
    assert {result.name for result in results} == {"bf", "bf_nonstrict", "iou", "box_pred"}
    assert [result for result in results if not result.ok] == []


def test_a_folder_without_answers_is_refused(tmp_path):
    with pytest.raises(UserError, match="no JSON file with a list of mask pairs"):
        check(tmp_path)
    (tmp_path / "broken.json").write_text('{"pairs": ')
    with pytest.raises(UserError, match="broken.json: not a JSON file"):
        check(tmp_path)
