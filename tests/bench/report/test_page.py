"""The page of a profile's results."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from bench.records import Record
from bench.report import page
from bench.report.layout import Column, Table

TABLES = {
    name: [Table(f"about {name}", [Column("x", "x")], [{"x": "<1>"}], ["said once"])]
    for name in ("main", "claims", "ablation", "rounding")
}
TABLES["provenance"] = [Table("Origin", [Column("x", "x")], [{"x": "y"}])]
TABLES["claims"] = [Table("Claims", [Column("claim", "claim"), Column("verdict", "verdict")],
                          [{"claim": "<2>", "verdict": "not decided"}])]  # fmt: skip
PLACE = {"dataset": "toy", "split": "val", "protocol": "per_expression"}
RECORDS = [
    Record("a", "ciou", 0.5, **PLACE, checkpoint="c1", device="a <CPU>", versions={"torch": "2.13"}, date="2026-01-02"),
    Record("a", "ciou", 0.4, **PLACE, checkpoint="c2", variant={"hierarchy": "off"}, device="a <CPU>"),
]


class Page(HTMLParser):
    """Collects the tags that are open, what is linked, and the ids."""

    def __init__(self, text):
        super().__init__()
        self.open, self.linked, self.ids = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.linked += [value for name, value in attributes if name in ("href", "src")]
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "figures").mkdir()
    for name in ("ablation_lengths.svg", "ablation_lengths.png", "examples.toy.val..webp", "examples.toy.testA..webp"):
        (tmp_path / "figures" / name).touch()
    return tmp_path


def test_the_answer_comes_first_and_sections_without_content_are_left_out(folder):
    text = page.write(folder, "nano", TABLES, RECORDS)
    assert Page(text).open == []
    headings = [
        "What the papers claim",
        "Results",
        "Tokens and scales",
        "Where the time goes",
        "Examples",
        "Provenance",
    ]
    places = [text.index(f">{heading}</h2>") for heading in headings]
    assert places == sorted(places) and text.count("</h2>") == len(headings)
    assert text.index("On toy val, each expression by itself, a reaches a cIoU of 50.0") < places[0]
    assert "&lt;1&gt;" in text and "<1>" not in text and "&lt;2&gt;" in text
    assert '<span class="verdict verdict-not">not decided</span>' in text


def test_what_is_linked_is_there_or_written_beside(folder):
    found = Page(page.write(folder, "nano", TABLES, RECORDS))
    kinds = [link[5:].partition(";")[0] for link in found.linked if link.startswith("data:")]
    assert kinds == ["image/svg+xml", "image/webp", "image/webp"]  # the page holds its figures
    assert {f"tables/{name}.csv" for name in TABLES} < set(found.linked)
    assert {link[1:] for link in found.linked if link[0] == "#"} <= set(found.ids)
    assert not {"STUDY.md", "browser/index.html"} & set(found.linked)
    (folder / "STUDY.md").touch()
    (folder / "browser").mkdir()
    (folder / "browser/index.html").touch()
    assert {"STUDY.md", "browser/index.html"} <= set(Page(page.write(folder, "nano", TABLES, RECORDS)).linked)


def test_figures_have_captions_and_stand_beside_each_other(folder):
    (folder / "figures" / "hierarchy.svg").write_text('<svg width="245pt" height="100pt"></svg>')
    Image.new("RGB", (1200, 80)).save(folder / "figures" / "prefixes.himtok.webp")
    text = page.write(folder, "nano", TABLES, RECORDS)
    assert text.count('<div class="figures">') == 2  # of tokens and scales, and the examples
    assert "Masks decoded from the first tokens of an answer, from few to all: HiMTok.</figcaption>" in text
    assert "IoU of the first method: toy val.</figcaption>" in text
    assert 'style="max-width:392px"' in text and 'width="392" height="160"' in text
    assert 'class="plot wide" tabindex="0" style="max-width:900px"' in text


def test_nothing_is_loaded_from_elsewhere(folder):
    text = page.write(folder, "nano", TABLES, RECORDS)
    assert "http" not in text and "<script" not in text and "@import" not in text


def test_long_tables_are_folded_and_notes_stand_once(folder):
    text = page.write(folder, "nano", TABLES, RECORDS)
    assert text.count("<details>") == 1 and "<summary>Table: every ablation</summary>" in text
    assert text.count("said once") == 1


def test_random_weights_are_told_before_any_figure(folder):
    text = page.write(folder, "nano", TABLES, [replace(RECORDS[0], note="random weights, 3 requests"), RECORDS[1]])
    assert text.index("were never trained") < text.index("On toy val")
    assert "were never trained" not in page.write(folder, "nano", TABLES, RECORDS)


HOSTILE = '<img src=x onerror="alert(1)">{{ 7*7 }}\u202e</script>'


def test_hostile_names_appear_as_text(folder):
    record = replace(RECORDS[0], method=HOSTILE, dataset=HOSTILE, device=HOSTILE, checkpoint=HOSTILE)
    table = Table(HOSTILE, [Column("x", HOSTILE, "method")], [{"x": HOSTILE}], [HOSTILE])
    text = page.write(folder, HOSTILE, {"main": [table]}, [record])
    assert "<img src=x" not in text and "</script>" not in text and "49" not in text
    assert Page(text).open == []
