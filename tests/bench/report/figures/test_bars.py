"""Bars end to end: their lengths are the records' figures."""

from dataclasses import replace

import pytest

from bench.records import Record
from bench.report.figures import bars
from bench.report.figures.style import files_of

from ..conftest import latency_records


def widths(figure):
    return [round(patch.get_width(), 3) for patch in figure.axes[0].patches]


def texts(figure):
    return {item.get_text() for item in figure.findobj(lambda artist: hasattr(artist, "get_text"))}


def test_stages_follow_each_other_and_the_floor_is_theirs(records):
    floor = [replace(r, metric="floor_ms", value=4.0) for r in latency_records("himtok", 1.0, {"vision": 1, "text": 1})
             if r.metric == "median_ms" and r.stage != "total"]  # fmt: skip
    figure = bars.latency_stages([*records, *floor])
    assert widths(figure) == [5.1, 60.0, 40.0, 0.3, 5.25, 120.0, 0.31]
    assert {"ARGenSeg", "HiMTok", "mask tokenizer", "105.4", "125.6", "floor 4"} <= texts(figure)  # that of text is not
    assert files_of(figure, "a") == files_of(bars.latency_stages([*records, *floor]), "a")


def test_other_backends_and_variants_are_left_out(records):
    slow = [replace(r, backend="official") for r in records if r.kind == "latency"]
    changed = [replace(r, variant={"weights": "int8"}) for r in records if r.kind == "latency"]
    assert bars.latency_stages([*slow, *changed]) is None
    assert bars.latency_stages([]) is None


def test_untrained_models_have_their_own_names_and_most_tokens(records):
    def model(tiles, tokens, factor):
        variant = {"model": "HiMTok", "backbone": "mid", "tiles": tiles}
        return [replace(r, variant=variant, tokens=tokens, value=factor * r.value) for r in records
                if r.kind == "latency" and r.method == "himtok"]  # fmt: skip

    figure = bars.latency_stages([*model(2, 32, 9), *model(1, 32, 2), *model(1, 16, 1)])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["HiMTok"]
    assert widths(figure) == [10.5, 240.0, 0.62]


def test_lost_points_are_those_of_the_budget(records):
    assert bars.budget_parts(records) is None
    parts = {"localization_accuracy": 0.8, "giou_localized": 0.7, "giou": 0.6}
    limits = [
        Record("himtok", name, value, "refmoji", "val", "breakdown", "per_expression") for name, value in parts.items()
    ]
    figure = bars.budget_parts([*records, *limits])
    bound = 0.93
    assert widths(figure) == pytest.approx([7.0, 100 * bound * 0.2, 80 * (bound - 0.7)], abs=1e-2)
    assert {"HiMTok", "another object", "the mask itself"} <= texts(figure)
