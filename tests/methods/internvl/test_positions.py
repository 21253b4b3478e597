"""Start values of position embeddings."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.internvl.positions import grid_positions


@given(side=st.integers(1, 16), width=st.integers(4, 70), finest=st.integers(1, 16))
def test_one_bounded_row_per_cell(side, width, finest):
    table = grid_positions(side, width, finest)
    assert table.shape == (side**2, width)
    assert table.abs().max() <= 1


def test_the_same_place_has_the_same_row_on_every_grid():
    middles = [grid_positions(side, 32, 16)[side**2 // 2] for side in (1, 3, 5)]
    for middle in middles[1:]:
        torch.testing.assert_close(middle, middles[0])


@pytest.mark.parametrize("side", [8, 16])
def test_near_cells_are_alike_and_no_two_are_equal(side):
    table = grid_positions(side, 64, side)
    distances = torch.cdist(table, table)
    assert distances.fill_diagonal_(9).min() > 0.1
    first = distances[0].view(side, side)
    assert first[0, 1] < first[0, 2] < first[0, side - 1]
    torch.testing.assert_close(first, first.T)
