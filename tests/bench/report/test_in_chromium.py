"""The pages in a real browser, from the disk: on a desk, on a phone, dark and printed, for eyes and screen readers."""

from dataclasses import replace

import pytest

from bench.evaluate.commands import compare_files
from bench.records import write_records
from bench.report.build import build
from bench.report.comparison import pair_of, write_comparison

from .audit import CHROMIUM, VIEWS, faults, opened
from .test_comparison import scores

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]
HOSTILE = '</td><img src=x onerror="alert(1)"><script>alert(2)</script>\u202e'


@pytest.fixture
def page_file(tmp_path, records):
    """The page of records with every kind of figure but curves of training, and with hostile names."""
    medians = [r for r in records if r.metric == "median_ms" and r.stage not in ("total", "extra")]
    floors = [replace(r, metric=name, value=r.value / 4) for r in medians for name in ("floor_ms", "read_gb", "gflop")]
    splits = [replace(r, split="testA") for r in records if r.kind == "score"]
    hostile = [
        replace(r, method=HOSTILE, device=HOSTILE) for r in records if r.method == "himtok" and r.kind == "score"
    ]
    write_records(tmp_path / "toy" / "records" / "all.jsonl", [*records, *floors, *splits, *hostile])
    build(tmp_path / "toy")
    return tmp_path / "toy" / "index.html"


def test_the_page_is_sound_in_every_view(page_file):
    for view in VIEWS:
        with opened(page_file, view) as page:
            assert faults(page) == [], view
            assert page.locator("figure img").count() >= 5
            if view == "print":
                assert page.pdf(format="A4").startswith(b"%PDF")
                assert not page.locator("nav").is_visible()
            if view == "phone":  # a table that is cut off scrolls, by keyboard too
                page.locator(".wide").first.focus()
                page.keyboard.press("ArrowRight")
                page.wait_for_function("document.activeElement.scrollLeft > 0")


def test_the_page_of_two_runs_is_sound(tmp_path):
    files = tuple(scores(tmp_path / name / "scores" / "x.jsonl", *told) for name, *told in
                  (("a", 25, "argenseg"), ("b", 22, "himtok")))  # fmt: skip
    written = write_comparison(tmp_path / "page.html", [pair_of(files, compare_files(*files))])
    for view in VIEWS:
        with opened(written, view) as page:
            assert faults(page) == [], view


def test_the_keyboard_reaches_the_results_first(page_file):
    with opened(page_file) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
        page.keyboard.press("Enter")
        assert page.url.endswith("#answer")


FAULTY = """<!doctype html><title>x</title>
<style>.scroll { overflow-x: auto; width: 50px; white-space: nowrap; }</style>
<main><h1>a</h1><h3 id="a">b</h3><p id="a" style="color:#999">pale</p><img src="data:,"><a href="#b"> </a>
<table><tr><td>1</td></tr></table><div class="scroll">more words than there is room for</div></main><p>lost</p>"""


def test_the_checks_find_what_is_wrong(tmp_path):
    path = tmp_path / "faulty.html"
    path.write_text(FAULTY)
    with opened(path) as page:
        found = {fault.partition(":")[0] for fault in faults(page)}
    assert found == {"language", "alt text", "image is broken", "name", "id twice", "link to nowhere", "heading order",
                     "outside of landmarks", "table head", "scrolls by mouse only", "contrast 2.85"}  # fmt: skip
