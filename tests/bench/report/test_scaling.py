"""Lines through measured points, and the image of them."""

from dataclasses import replace

import pytest

from bench.records import Record
from bench.report import scaling
from bench.report.figures.style import files_of

COMMON = dict(dataset="d", split="", kind="scaling", device="a processor", precision="float32", n=9)


def measured(method, axis, fixed, slope, counts, backbone="mid"):
    return [
        Record(
            method, "median_ms", value, axis=axis, units=n, low=value - 1, high=value + 2, backbone=backbone, **COMMON
        )
        for n in counts
        for value in [fixed + slope * n]
    ]


@pytest.fixture
def points():
    return [
        *measured("himtok", "images", 20, 30, (8, 1, 2, 4)),
        *measured("argenseg", "images", 10, 60, (1, 2, 4, 8)),
        *measured("himtok", "tokens", 100, 2, (1, 2, 4, 8, 16, 32)),
        *measured("argenseg", "tokens", 90, 0.5, (1, 5, 14, 30, 680)),
        *measured("himtok", "images", 5, 1, (1, 2), backbone="nano"),
    ]


def test_lines_by_hand(points):
    tables = scaling.tables(points)
    assert [table.title.split(",")[0] for table in tables] == ["Scaling — mid", "Scaling — nano"]
    row = next(row for row in tables[0].rows if row["method"] == "himtok" and "batch" in row["axis"])
    assert (row["fixed ms"], row["ms per unit"], row["R²"], row["measured at"]) == (
        "20.0",
        "30.00",
        "1.000",
        "1, 2, 4, 8",
    )
    assert float(row["most units per second"]) == pytest.approx(8e3 / 260, abs=0.01)
    assert len(tables[0].rows) == 4


def test_datasets_do_not_share_a_line(points):
    slower = [replace(point, dataset="other", value=2 * point.value) for point in points if point.backbone == "nano"]
    found = scaling.curves([*points, *slower])
    assert list(found) == ["mid", "nano.d", "nano.other"]
    assert scaling.line(found["nano.other"]["images"]["himtok"])[:2] == pytest.approx((10, 2))


def test_one_point_is_a_flat_line():
    assert scaling.line(measured("m", "tiles", 7, 0, (3,))) == (7.0, 0.0, 1.0)


def test_the_image_names_axes_and_methods_and_is_the_same_each_time(points):
    drawn = scaling.figures(points)
    assert list(drawn) == ["scaling.mid", "scaling.nano"]
    panels = drawn["scaling.mid"].axes
    assert [panel.get_xlabel() for panel in panels] == ["images in a batch", "mask tokens"]
    assert [text.get_text() for text in drawn["scaling.mid"].legends[0].get_texts()] == ["ARGenSeg", "HiMTok"]
    first, second = (files_of(scaling.figures(points)["scaling.mid"], "scaling") for _ in range(2))
    assert first == second


def test_without_points_there_is_nothing(records):
    assert scaling.tables(records) == [] and scaling.figures(records) == {}
