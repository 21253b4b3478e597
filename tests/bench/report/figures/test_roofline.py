"""Stages beside their floors: floors, medians and shares are the records' own."""

from dataclasses import replace

from bench.report.figures.roofline import roofline


def test_stages_floors_and_shares(records):
    floors = [replace(r, metric="floor_ms", value=r.value / 4) for r in records
              if r.metric == "median_ms" and r.stage not in ("total", "extra")]  # fmt: skip
    (axis,) = roofline([*records, *floors]).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["vision", "mask", "mask tokenizer", "resize"]
    assert {text.get_text() for text in axis.texts} == {"25 %"}
    assert sorted(axis.lines[0].get_xdata()) == [5.1 / 4, 5.1]
    assert {text.get_text() for text in axis.figure.legends[0].get_texts()} == {"ARGenSeg", "HiMTok", "floor"}


def test_without_floors_there_is_none(records):
    assert roofline(records) is None
