"""The page of a profile's results."""

from html.parser import HTMLParser

import pytest

from bench.records import Record
from bench.report import page
from bench.report.layout import Column, Table

TABLES = {
    name: [Table(f"about {name}", [Column("x", "x")], [{"x": "<1>"}])]
    for name in ("main", "findings", "ablation", "int8")
}
PLACE = {"dataset": "toy", "split": "val", "protocol": "per_expression"}
RECORDS = [
    Record("a", "ciou", 0.5, **PLACE, checkpoint="c1", device="a <CPU>", versions={"torch": "2.13"}, date="2026-01-02"),
    Record("a", "ciou", 0.4, **PLACE, checkpoint="c2", variant={"hierarchy": "off"}, device="a <CPU>"),
]


class Page(HTMLParser):
    """Collects the tags that are open and what is linked."""

    def __init__(self, text):
        super().__init__()
        self.open, self.linked = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.linked += [value for name, value in attributes if name in ("href", "src")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "figures").mkdir()
    for name in ("ablation_lengths.svg", "ablation_lengths.png", "examples.toy.val.webp", "examples.toy.testA.webp"):
        (tmp_path / "figures" / name).touch()
    return tmp_path


def test_sections_are_in_order_and_those_without_content_left_out(folder):
    text = page.write(folder, "nano", TABLES, RECORDS)
    assert Page(text).open == []
    headings = ["Results", "What the papers claim", "How many tokens", "Where the time goes", "Examples", "Origin"]
    places = [text.index(f">{heading}</h2>") for heading in headings]
    assert places == sorted(places) and text.count("</h2>") == len(headings)
    assert "&lt;1&gt;" in text and "<1>" not in text


def test_what_is_linked_is_there_or_written_beside(folder):
    linked = Page(page.write(folder, "nano", TABLES, RECORDS)).linked
    assert "figures/ablation_lengths.svg" in linked and "figures/ablation_lengths.png" not in linked
    assert [path for path in linked if "examples" in path and path[0] != "#"] == [
        "figures/examples.toy.testA.webp", "figures/examples.toy.val.webp"
    ]  # fmt: skip
    assert {f"tables/{name}.csv" for name in TABLES} < set(linked)
    assert "STUDY.md" not in linked
    (folder / "STUDY.md").touch()
    assert "STUDY.md" in Page(page.write(folder, "nano", TABLES, RECORDS)).linked


def test_long_tables_are_folded(folder):
    text = page.write(folder, "nano", TABLES, RECORDS)
    assert text.count("<details>") == 1 and "<summary>ablation: the table</summary>" in text
    several = page.write(folder, "nano", TABLES | {"benchmarks": TABLES["main"]}, RECORDS)
    assert "<summary>main: the table</summary>" in several and "benchmarks: the table" not in several


def test_the_origin_names_devices_versions_and_the_weights_of_the_main_models(folder):
    text = page.write(folder, "nano", {}, RECORDS)
    assert "devices: a &lt;CPU&gt;" in text and "weights (digest): a c1<br>" in text
    assert "versions: torch 2.13" in text and "measured: 2026-01-02" in text
    assert "c2" not in text.partition("<body>")[2]
