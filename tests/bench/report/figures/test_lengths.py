"""Curves over the number of mask tokens: drawn when there is something to draw, with their names at their ends."""

import pytest

from bench.records import Record
from bench.report.figures import lengths
from bench.report.figures.style import files_of

OFF, CLEAN = {"hierarchy": "off"}, {"training": "short", "encoder_layout": "clean"}


def texts(figure):
    return {item.get_text() for item in figure.findobj(lambda artist: hasattr(artist, "get_text"))}


def changed(variant, tokens, kind, metric, value):
    more = {"variant": variant, "tokens": tokens, "low": value, "high": value}
    return Record("himtok", metric, value, "refmoji", "val", kind, "per_expression" * (kind == "score"), **more)


def test_same_records_same_bytes(records):
    first, second = (files_of(lengths.reconstruction_bound(records), "figure") for _ in range(2))
    assert first == second
    assert first.keys() == {"figure.png", "figure.svg", "figure.pdf"}
    assert b"<dc:date>" not in first["figure.svg"]
    assert b"Matplotlib" not in first["figure.png"]
    assert b"/CreationDate" not in first["figure.pdf"] and b"atplotlib" not in first["figure.pdf"]


def test_reconstruction_names_curves_and_ticks(records):
    figure = lengths.reconstruction_bound(records)
    found = texts(figure)
    assert {"HiMTok", "ARGenSeg", "HiMTok, small", "mask tokens", "RefMoji val (small: below 32² px, n = 100)"} <= found
    assert [tick for tick in figure.axes[0].get_xticks() if tick in (32, 680)] == [32, 680]
    assert lengths.reconstruction_bound([r for r in records if r.kind == "score"]) is None


def test_answers_cut_short_are_a_curve_each():
    answers = [changed({}, n, "score", "ciou", n / 100) for n in (1, 8, 32)]
    figure = lengths.ablation_lengths(answers)
    assert {"HiMTok", "cIoU (%)"} <= texts(figure)
    assert list(figure.axes[0].lines[0].get_ydata()) == pytest.approx([1, 8, 32])
    assert lengths.ablation_lengths([]) is None


def test_mask_tokenizers_have_a_panel_for_each_change(records):
    bounds = [changed(each, n, "reconstruction", "giou", 0.2) for n in (1, 8, 32) for each in (OFF, CLEAN)]
    figure = lengths.mask_tokenizers([*records, *bounds])
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["HiMTok: encoder layout"]
    assert {"as evaluated", "clean, training short"} <= texts(figure)
    assert "HiMTok: encoder layout" not in texts(lengths.reconstruction_bound([*records, *bounds]))
    assert lengths.mask_tokenizers(records) is None
