"""Outlines and rows as text: there and back, repairs, and texts that are no mask."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.textmask.numbers import END, Malformed, next_digits
from methods.textmask.outlines import area, draw, simplify, trace
from methods.textmask.polygon import Polygon
from methods.textmask.rows import Rows

SIDE = 32
NOTATIONS = (Polygon(8, 3), Polygon(32, 3), Rows(16, 4), Rows(24, 2))


def iou(a, b):
    return (a & b).sum() / max(1, (a | b).sum())


def disc(x, y, radius):
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    return (((columns - x) ** 2 + (rows - y) ** 2) < radius**2).astype(np.float32)


def test_a_rectangle_is_its_four_corners_clockwise_from_the_top_left():
    mask = np.zeros((SIDE, SIDE), np.float32)
    mask[8:24, 0:16] = 1
    points = simplify(trace(mask, 3), 64, 0.02)
    assert len(points) == 1 and area(points[0]) > 0
    assert np.abs(draw(points, SIDE) - mask).mean() < 0.02  # a traced corner is half a pixel short
    x, y = map(int, Polygon(8, 3).write(mask).split(",")[:2])
    assert x < 20 and abs(y - 250) < 20


@pytest.mark.parametrize("points", (8, 16, 32))
def test_parts_and_holes_come_back(points):
    mask = disc(10, 12, 8) - disc(10, 12, 3) + disc(25, 25, 5)
    again = Polygon(points, 3).read(Polygon(points, 3).write(mask), SIDE)
    assert iou(again > 0.5, mask > 0.5) > {8: 0.5, 16: 0.8, 32: 0.9}[points]
    assert points == 8 or again[12, 10] == 0  # two outlines at most have room in eight points


def test_the_largest_parts_are_kept_and_small_holes_are_filled():
    mask = disc(8, 8, 7) + disc(24, 24, 6) - disc(8, 8, 2) - disc(24, 24, 1.5)
    outlines = trace(mask, 1)
    assert len(outlines) == 2
    assert np.array_equal(draw(outlines, SIDE) > 0.5, disc(8, 8, 7) - disc(8, 8, 2) > 0.5)


@given(st.integers(0, 2**32 - 1), st.sampled_from(NOTATIONS))
@settings(max_examples=60, deadline=None)
def test_whatever_the_grammar_allows_ends_in_time_and_is_read(seed, notation):
    draws, text = random.Random(seed), ""
    while not text.endswith(END):
        text += draws.choice(notation.allowed(text))
        assert len(text) <= notation.length
    try:
        mask = notation.read(text[:-1], SIDE)
    except Malformed as error:
        assert isinstance(notation, Polygon) and str(error) in (
            "no outline has three points", "its outlines enclose nothing"
        )  # fmt: skip
    else:
        assert mask.shape == (SIDE, SIDE) and 0 <= mask.min() and mask.max() <= 1


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.sampled_from(NOTATIONS))
@settings(max_examples=60, deadline=None)
def test_what_is_written_keeps_to_the_grammar(seed, share, notation):
    noise = np.random.default_rng(seed).random((SIDE, SIDE)) < share
    text = notation.write(noise.astype(np.float32)) + END
    assert len(text) <= notation.length
    for at, symbol in enumerate(text):
        assert symbol in notation.allowed(text[:at]), text[: at + 1]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_rows_of_a_grid_come_back_exactly(seed):
    cells = np.random.default_rng(seed).random((16, 16)) < 0.3
    notation = Rows(16, 8)
    again = notation.read(notation.write(cells.repeat(2, 0).repeat(2, 1).astype(np.float32)), 16)
    assert np.array_equal(again > 0.5, cells)


def test_a_small_object_fills_its_fullest_cell_and_nothing_is_nothing():
    speck = np.zeros((SIDE, SIDE), np.float32)
    speck[5, 9] = 1
    assert Rows(16, 4).write(speck) == "2;4,1"
    for notation in NOTATIONS:
        assert notation.write(0 * speck) == "" and not notation.read("", SIDE).any()


@given(st.integers(0, 999), st.integers(0, 999), st.integers(0, 999))
def test_digits_lead_to_every_number_of_a_range_and_to_no_other(low, high, number):
    low, high = min(low, high), max(low, high)
    text = str(number)
    reached = all(text[at] in next_digits(text[:at], low, high) for at in range(len(text)))
    assert reached or not low <= number <= high
    assert not reached or number <= high


SQUARE = "100,100,900,100,900,900,100,900"


@pytest.mark.parametrize("text", [
    SQUARE + ",", SQUARE + ";", SQUARE + ",5", SQUARE + ";7", SQUARE + ";3,3,3,3,3,3",
    " 100, 100, 900, 100,900,900,100,900",
    "100,100,100,100,900,100,900,900,100,900", "100,900,900,900,900,100,100,100", SQUARE + ";;",
])  # fmt: skip
def test_outlines_are_repaired(text):
    whole = Polygon(8, 3).read(SQUARE, SIDE)
    assert np.array_equal(Polygon(8, 3).read(text, SIDE), whole)


def test_an_outline_that_crosses_itself_is_filled_by_the_even_odd_rule():
    bow = Polygon(8, 3).read("0,0,999,999,999,0,0,999", 30) > 0.5
    assert bow[15, 3] and bow[15, 26] and not bow[3, 15] and not bow[26, 15]


@pytest.mark.parametrize("text", ["4;2,2,9", "4;2,2,20,5", "15;2,2;3,3", "4;0;2,2,", "4;2,2;"])
def test_rows_are_repaired(text):
    assert Rows(16, 4).read(text, SIDE).any()


BROKEN_OUTLINES = (
    "a", "100", "100,200", "100,200,300,400", "100,,200,300,400,500", ",100,200", ";100,200,1,2,3,4", "100;;200",
    "-1,2,3,4,5,6",
    "1.5,2,3,4,5,6", "1000,2,3,4,5,6", "99999,2,3,4,5,6", "1,1,1,1,1,1", "1,1,500,500,999,999", "(1,2),(3,4),(5,6)",
    "1,2,3,4,5,6.", "[[1, 2, 3, 4]]", "<box>1,2,3,4,5,6", "1,2;3,4;5,6", "\u0661,2,3,4,5,6", "1/2", "m 1,2 z",
)  # fmt: skip
BROKEN_ROWS = (
    "16", "99;2,2", "1,2;3,4", "4", "4;0;0", "4;;2,2", "4;,2", "x;2,2", "4;2-3", "4;20,5", "4;3", "99999;1,1", "4:2,2",
    "4;2,,2",
)  # fmt: skip


@pytest.mark.parametrize(
    ("notation", "text"),
    [*((Polygon(8, 3), text) for text in BROKEN_OUTLINES), *((Rows(16, 4), text) for text in BROKEN_ROWS)],
)
def test_what_is_no_mask_says_why(notation, text):
    with pytest.raises(Malformed, match="^(it|a|no|its) "):
        notation.read(text, SIDE)


@given(st.text("0123456789,; .a-", max_size=40), st.sampled_from(NOTATIONS))
def test_no_text_ends_in_another_exception(text, notation):
    try:
        assert notation.read(text, SIDE).shape == (SIDE, SIDE)
    except Malformed:
        pass
