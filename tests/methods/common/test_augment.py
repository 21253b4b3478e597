"""Masks that the data do not hold."""

from __future__ import annotations

import pytest
import torch

from methods.common.augment import augmented, flipped, shapes, stretched
from methods.common.config import AUGMENTATIONS


@pytest.fixture
def masks() -> torch.Tensor:
    """Eight off-centre rectangles."""
    made = torch.zeros(8, 1, 64, 64)
    made[:, :, 10:30, 5:20] = 1
    return made


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_as_many_masks_in_the_same_range_and_the_same_for_a_seed(masks, name):
    torch.manual_seed(0)
    first = augmented(masks, name)
    torch.manual_seed(0)
    assert torch.equal(first, augmented(masks, name))
    assert first.shape == masks.shape and first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, masks) == (name == "none")


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_small_batches(masks, count):
    assert augmented(masks[:count], "shapes").shape == (count, 1, 64, 64)


def test_flips_keep_the_area_and_leave_half_alone(masks):
    torch.manual_seed(1)
    found = flipped(masks.repeat(50, 1, 1, 1))
    assert torch.equal(found.sum((1, 2, 3)), masks.sum((1, 2, 3)).repeat(50))
    assert 0.4 < (found == masks[:1]).flatten(1).all(1).float().mean() < 0.6


def test_stretched_masks_reach_borders_and_other_aspects(masks):
    torch.manual_seed(2)
    found = stretched(masks.repeat(20, 1, 1, 1))[:, 0] > 0.5
    assert (found.flatten(1).float().mean(1) >= 0.004).all() and (found.flatten(1).float().mean(1) < 0.7).all()
    height, width = found.any(2).sum(1), found.any(1).sum(1)
    assert (height > 2.5 * width).any() and (width > 2.5 * height).any()
    assert found[:, 0].any() and found[:, -1].any() and found[:, :, 0].any() and found[:, :, -1].any()


def test_shapes_are_seen_and_differ():
    torch.manual_seed(3)
    found = shapes(100, 64)[:, 0]
    share = (found > 0.5).flatten(1).float().mean(1)
    assert (share > 0).float().mean() > 0.9 and (share < 0.8).all() and len(found.flatten(1).unique(dim=0)) > 90
