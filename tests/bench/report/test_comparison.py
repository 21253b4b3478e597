"""The page of two runs."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from bench.data import rle
from bench.data.dataset import ExampleDataset
from bench.evaluate.commands import compare_files, pairs_of
from bench.evaluate.metrics import score
from bench.report.comparison import CHANGED, MARK, Pair, comparison, pair_of, write_comparison
from methods.base import Example, UserError
from methods.files import write_lines

TRUTH = np.zeros((40, 60), bool)
TRUTH[10:30, 10:50] = True
HOSTILE = ("<script>alert(1)</script>", 'a" onload="x', r"\input{secret} $x$", "\u202edesrever", "{{ 7 * 7 }}", "it")


def half(rows):
    mask = TRUTH.copy()
    mask[rows:] = False
    return mask


def scores(path, rows, method, count=18):
    """Answers that mark the first rows of the truth; every third one finds nothing."""
    lines = []
    for i in range(count):
        mask = half(0 if i % 3 == 0 and method == "himtok" else rows)
        row = {"dataset": "refmoji", "split": "val", "protocol": "per_expression", "ref_id": i, "sent_id": 0}
        row |= {"image_id": i // 2, "expression": HOSTILE[i % len(HOSTILE)], "mask": rle.encode(mask), "method": method}
        lines.append(row | {"failure": None} | score(mask, TRUTH).as_dict())
    write_lines(path, lines)
    return path


@pytest.fixture
def files(tmp_path):
    return scores(tmp_path / "a" / "scores" / "x.jsonl", 25, "argenseg"), scores(
        tmp_path / "b" / "scores" / "x.jsonl", 22, "himtok"
    )


@pytest.fixture
def pair(files):
    return pair_of(files, compare_files(*files))


class Text(HTMLParser):
    """The words of a page, and tags and attributes that a page without scripts must not have."""

    def __init__(self, text):
        super().__init__()
        self.words, self.tags, self.attributes, self.sources = [], set(), set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.words.append(data)


def test_the_difference_is_told_with_its_interval_and_counted(pair):
    text = comparison([pair])
    assert pair.names == ("ARGenSeg (a)", "HiMTok (b)")
    assert re.search(r"cIoU of A is [\d.]+ points above that of B \(\+", text)
    assert "RefMoji val, each expression by itself" in text
    assert re.search(r"A is better by more than 0.1 of IoU</th><td class=\"figure\">18<", text)


def test_expressions_are_text_whatever_they_hold(pair):
    page = Text(comparison([pair]))
    words = "".join(page.words)
    for expression in HOSTILE:
        assert expression.replace("\u202e", r"\u202e") in words
    assert "\u202e" not in words and "49" not in re.findall(r"“(.*?)”", words)
    assert "script" not in page.tags and "onload" not in page.attributes


def test_the_page_needs_nothing_beside_it(pair):
    dataset = ExampleDataset([Example(Image.new("RGB", (60, 40), "red"), ("it",), TRUTH, ref_id=i) for i in range(18)])
    text = comparison([Pair(pair.names, pair.compared, dataset)])
    page = Text(text)
    assert all(source.startswith("data:image/") for source in page.sources)
    assert text.count('alt="truth') == CHANGED and text.count("<figcaption>B") == CHANGED
    assert comparison([Pair(pair.names, pair.compared, dataset)]) == text


def test_only_a_page_of_ours_is_replaced(tmp_path, pair):
    target = tmp_path / "page.html"
    assert MARK in write_comparison(target, [pair]).read_text()
    write_comparison(target, [pair])
    target.write_text("my own notes")
    with pytest.raises(UserError, match="page.html: holds something else"):
        write_comparison(target, [pair])
    assert target.read_text() == "my own notes"


def test_runs_are_compared_file_by_file(tmp_path, files):
    for name in ("baseline-empty.val", "himtok.val.reconstruction-032"):
        for run in "ab":
            scores(tmp_path / run / "scores" / f"{name}.jsonl", 20, "m", 2)
    assert pairs_of(tmp_path / "a", tmp_path / "b") == [files]
    assert pairs_of(*files) == [files]
    (tmp_path / "c" / "scores").mkdir(parents=True)
    with pytest.raises(UserError, match="no scores of the same name"):
        pairs_of(tmp_path / "a", tmp_path / "c")


def test_answers_of_equal_score_make_a_page_too(files):
    text = comparison([pair_of((files[0], files[0]), compare_files(files[0], files[0]))])
    assert "which is not sure" in text and text.count("<p>None.</p>") == 2
    assert json.dumps(text)
