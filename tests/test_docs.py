"""The guides' code runs as it is printed, links between pages resolve, and figures are those of the results."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from bench.data.dataset import ExampleDataset
from bench.evaluate.metrics import registry, score
from bench.evaluate.scoring import score_predictions, to_records
from bench.records import Record
from bench.report.layout import markdown
from methods.base import Example

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "datasets/refmoji/README.md", ROOT / "results/nano/STUDY.md",
    *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "methods").glob("*/README.md")),
]  # fmt: skip
NANO = ROOT / "results" / "nano" / "tables"


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
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(#[^)\s]*)?\)", text):
        if target.startswith(("http:", "https:")):
            continue
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor[1:] in anchors(file), f"{page.name} links to {target}{anchor}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def rows(path: Path, begin: str) -> list[dict[str, str]]:
    """The first table of Markdown whose head begins so, without marks of bold."""
    lines = path.read_text(encoding="utf-8").replace("**", "").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(begin))
    cells = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        cells.append([cell.strip() for cell in line.strip("|").split("|")])
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def test_the_front_page_has_the_figures_of_the_results():
    measured = {row["method"]: row for row in rows(NANO / "accuracy.md", "| method |")}
    timed = {row["method"]: row["latency, ms"] for row in rows(NANO / "main.md", "| method |")}
    shown = rows(ROOT / "README.md", "| method |")
    assert {"ARGenSeg", "HiMTok"} < {row["method"] for row in shown}
    for row in shown:
        name = row["method"]
        assert row.pop("latency, ms") == timed[name]
        assert row == {column: measured[name][column] for column in row}


def test_decimals_of_the_front_page_stand_in_the_tables():
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## What it means")[2].partition("## Three")[0]
    known = "".join((NANO / f"{name}.md").read_text(encoding="utf-8") for name in ("main", "budget", "accuracy"))
    decimals = re.findall(r"\d+\.\d\b", text)
    assert len(decimals) > 5
    assert [each for each in decimals if not re.search(rf"(?<![\d.]){re.escape(each)}(?!\d)", known)] == []


def test_the_site_has_every_page_of_the_docs():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    parts = [part for entry in settings["nav"] for part in entry.values()]
    named = [part for part in parts if isinstance(part, str)]
    named += [page for part in parts if not isinstance(part, str) for entry in part for page in entry.values()]
    assert sorted(named) == sorted(["index.md", *(page.name for page in (ROOT / "docs").glob("*.md"))])


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("material", reason="mkdocs-material is not installed (pip install -e '.[docs]')")
    words = ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    front = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    links = [link for link in re.findall(r'(?:href|src)="([^"#]+)', front) if not link.startswith(("http", "data:"))]
    assert links and all((tmp_path / "site" / link).exists() for link in links)


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert cited["version"] == project["version"] and cited["license"] == project["license"]
    assert [len(each["authors"]) for each in cited["references"]] == [5, 7]


def test_coco_results_of_the_guide_are_scored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(code_of("other_systems.md"), {})
    truth = np.zeros((480, 640), bool)
    truth[:240] = True
    dataset = ExampleDataset([Example(Image.new("RGB", (640, 480)), ("it",), truth, image_id=1, ref_id=17)], "refcoco")
    (row,) = score_predictions(tmp_path / "lisa.json", dataset)
    assert (row["iou"], row["sent_id"]) == (0.5, 0)
