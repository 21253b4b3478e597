"""Names that do not touch, and looks that tell methods apart."""

from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from bench.report.figures.style import End, _apart, look_of, looks, name_ends
from methods.registry import METHODS

GAP = 0.05


@given(st.lists(st.floats(0, 1), max_size=15))
def test_names_stand_apart_in_their_order_and_move_no_more_than_they_must(places):
    places = sorted(places)
    found = _apart(places, GAP)
    assert all(after - before >= GAP - 1e-9 for before, after in zip(found, found[1:], strict=False))
    assert not found or found[-1] <= 1 + 1e-9
    if all(after - before >= GAP for before, after in zip(places, places[1:], strict=False)):
        assert found == places


def test_a_method_looks_the_same_whatever_stands_beside_it():
    labels = ["himtok", "himtok (+SAM)", "argenseg", *(f"other {i}" for i in range(20))]
    found = looks(labels)
    assert len(set(found.values())) == len(labels)
    assert found["himtok"] == looks(["himtok"])["himtok"] == look_of("himtok")
    assert len({look_of(name) for name in METHODS}) >= min(len(METHODS), 6)


def test_names_stand_at_the_ends_of_their_curves():
    axis = Figure().subplots()
    axis.set_ylim(0, 100)
    name_ends(axis, [End(50.0, 3.0, "upper", "red"), End(49.0, 2.0, "lower", "blue")], 2.0)
    lower, upper = axis.texts
    assert (lower.get_text(), lower.xy) == ("lower", (2.0, 49.0)) and upper.xy == (3.0, 50.0)
    assert upper.get_position()[1] - lower.get_position()[1] > 0.05
