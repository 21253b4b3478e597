"""The guides' code runs as it is printed, and links between pages resolve."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data.dataset import ExampleDataset
from bench.evaluate.metrics import registry, score
from bench.evaluate.scoring import score_predictions, to_records
from bench.records import Record
from bench.report.layout import markdown
from methods.base import Example

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "methods").glob("*/README.md"))]


def code_of(page: str) -> str:
    """The page's only block of Python."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.S)
    return block


def test_metrics_of_the_guide_are_scored(monkeypatch):
    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))
    exec(code_of("add_a_metric.md"), {})
    whole, half = np.ones((4, 4), bool), np.zeros((4, 4), bool)
    half[:1] = True
    rows = [
        score(predicted, whole).as_dict()
        | {"category": name, "ref_id": i, "sent_id": 0, "image_id": i, "dataset": "d", "split": "val", "protocol": "p"}
        for i, (predicted, name) in enumerate(((whole, "cat"), (half, "cat"), (whole, "dog")))
    ]
    found = {record.metric: record.value for record in to_records(rows, method="m")}
    assert found["half_right"] == pytest.approx(2 / 3)
    assert found["half_right_class"] == pytest.approx(3 / 4)
    assert found["tall_ciou"] == pytest.approx((16 + 4 + 16) / 48)


def test_the_table_of_the_guide_is_drawn():
    given: dict = {}
    exec(code_of("add_a_table.md"), given)
    records = [
        Record(method=name, metric="giou", value=0.5, dataset="d", split="val", kind="score", protocol="p", n=8,
               failures=failures)
        for name, failures in (("a", 0), ("b", 2))
    ]  # fmt: skip
    (table,) = given["failures"](records)
    assert [row["method"] for row in table.rows] == ["b", "a"]
    assert "25.0" in markdown(table)
    assert given["failures"]([]) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_coco_results_of_the_guide_are_scored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(code_of("other_systems.md"), {})
    truth = np.zeros((480, 640), bool)
    truth[:240] = True
    dataset = ExampleDataset([Example(Image.new("RGB", (640, 480)), ("it",), truth, image_id=1, ref_id=17)], "refcoco")
    (row,) = score_predictions(tmp_path / "lisa.json", dataset)
    assert (row["iou"], row["sent_id"]) == (0.5, 0)
