"""Accuracy on every split and by size: the records' figures, and none without records."""

from dataclasses import replace

import pytest

from bench.report.figures.accuracy import accuracy_splits, object_sizes


def texts(figure):
    return {item.get_text() for item in figure.findobj(lambda artist: hasattr(artist, "get_text"))}


def test_splits_have_a_line_each_and_the_best_baseline(records):
    assert accuracy_splits(records) is None  # one place: the summary's chart shows it
    figure = accuracy_splits([*records, *(replace(r, split="testA", value=r.value / 2, low=None) for r in records)])
    assert {"HiMTok", "ARGenSeg", "best baseline", "cIoU (%)", "RefMoji val", "RefMoji testA"} <= texts(figure)
    (axis,) = figure.axes
    assert [bar[0].get_xdata()[0] for bar in axis.containers] == pytest.approx([58, 61, 29, 30.5])
    assert {line.get_xdata()[0] for line in axis.lines if line.get_label() == "best baseline"} == {27, 13.5}


def test_protocols_have_a_panel_each(records):
    joined = [replace(r, protocol="per_object_joined") for r in records]
    titles = {axis.get_title(loc="left") for axis in accuracy_splits([*records, *joined]).axes}
    assert titles == {"each expression by itself", "all expressions of an object at once"}


def test_sizes_have_their_counts_and_bounds(records):
    assert object_sizes(records) is None
    plain = [r for r in records if r.metric == "giou" and not r.tokens]
    sized = [replace(r, metric=f"giou@{size}", value=value, low=None, high=None, n=n) for r in plain
             for size, value, n in (("small", 0.2, 40), ("large", 0.7, 60))]  # fmt: skip
    bounds = [replace(r, metric="giou@large", value=0.99) for r in records
              if r.kind == "reconstruction" and r.metric == "giou"]  # fmt: skip
    figure = object_sizes([*records, *sized, *bounds])
    assert {"small\n< 32² px\n(n = 40)", "large\n> 96² px\n(n = 60)", "HiMTok", "reconstruction"} <= texts(figure)
    dashed = [list(line.get_ydata()) for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert dashed == [pytest.approx([76, 99]), pytest.approx([73, 99])]
