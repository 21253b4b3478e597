"""Targets of the backbone's auxiliary losses, and what the losses do with them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from methods.boxes.pretraining import PretrainingHeads, area_average, patch_targets
from methods.internvl.config import named_size

SIZE = named_size("tiny")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), arrays(np.bool_, (4 * n, 4 * n)))))
def test_area_average_is_the_mean_of_each_cell(case):
    n, mask = case
    expected = mask.reshape(4, n, 4, n).mean((1, 3))
    assert area_average(mask, 4) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 16), st.booleans())
def test_any_size_gives_shares(height, width, side, value):
    found = area_average(np.full((height, width), value), side)
    assert found.shape == (side, side)
    assert found == pytest.approx(np.full((side, side), float(value)), abs=1e-5)


def test_targets_lie_on_the_patch_grid(examples):
    example = examples[0]
    targets = patch_targets(example, SIZE)
    assert targets["dense"].shape == targets["semantic"].shape == (256,)
    x1, y1, x2, y2 = example.box
    row, column = int((y1 + y2) / 2 / 48 * 16), int((x1 + x2) / 2 / 64 * 16)
    assert targets["dense"].reshape(16, 16)[row, column] == 1
    assert targets["semantic"].reshape(16, 16)[row, column] == 1
    assert targets["dense"].mean() == pytest.approx(example.mask.mean(), abs=1e-6)


def test_what_is_not_annotated_is_marked(examples):
    targets = patch_targets(replace(examples[0], mask=None, semantic=None), SIZE)
    assert set(targets["dense"]) == set(targets["semantic"]) == {-1}


def heads_and_batch(rows: int):
    torch.manual_seed(0)
    batch = {
        "dense": torch.rand(rows, 256).round(), "semantic": torch.randint(0, 3, (rows, 256)),
        "tile_of": torch.arange(rows),
    }  # fmt: skip
    return PretrainingHeads(SIZE), torch.randn(rows, 64, 64), torch.randn(rows, 256, 64), batch


def test_rows_without_a_mask_have_no_part_in_the_dense_loss():
    heads, tokens, patches, batch = heads_and_batch(3)
    batch["dense"][1] = -1
    alone = heads(tokens[[0, 2]], patches, batch | {"dense": batch["dense"][[0, 2]]})["dense"]
    torch.testing.assert_close(heads(tokens, patches, batch)["dense"], alone)
    batch["dense"][:] = -1
    assert "dense" not in heads(tokens, patches, batch)


def test_patches_without_a_class_have_no_part_in_the_semantic_loss():
    heads, tokens, patches, batch = heads_and_batch(2)
    whole = heads(tokens, patches, batch)["semantic"]
    batch["semantic"][1] = -1
    first = heads(tokens, patches, batch)["semantic"]
    assert not torch.isclose(first, whole)
    one = {"dense": batch["dense"][:1], "semantic": batch["semantic"][:1], "tile_of": torch.tensor([0])}
    torch.testing.assert_close(first, heads(tokens[:1], patches[:1], one)["semantic"])


def test_each_image_token_speaks_for_its_four_patches():
    """A head that copies a feature puts token (r, c)'s four values at patches (2r, 2c) to (2r + 1, 2c + 1)."""
    heads, _, patches, batch = heads_and_batch(1)
    with torch.no_grad():
        heads.dense.weight.zero_()
        heads.dense.bias.zero_()
        heads.dense.weight[:, 0] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    tokens = torch.zeros(1, 64, 64)
    tokens[0, 8 * 3 + 5, 0] = 10  # token at row 3, column 5
    for place, best in [((6, 10), 1), ((6, 11), 2), ((7, 10), 3), ((7, 11), 4)]:
        target = torch.zeros(1, 256)
        target[0, 16 * place[0] + place[1]] = 1
        bce = 0.25 * (heads(tokens, patches, batch | {"dense": target})["dense"] - 1)
        logits = torch.zeros(16, 16)
        logits[6:8, 10:12] = torch.tensor([[10.0, 20], [30, 40]])
        exact = torch.nn.functional.binary_cross_entropy_with_logits(logits.flatten(), target[0])
        assert bce < exact + 0.01, best
    found = heads(tokens, patches, batch | {"dense": target})["_pointing"]
    assert found == 1


def test_a_perfect_read_out_costs_little():
    heads, tokens, patches, batch = heads_and_batch(1)
    batch["dense"][:] = 0
    batch["dense"][0, :64] = 1
    with torch.no_grad():
        heads.dense.weight.zero_()
        heads.dense.weight[:, 0] = 50
        heads.dense.bias.fill_(-25)
    tokens[..., 0] = 0
    tokens[0, :16, 0] = 1  # the two upper rows of tokens are the four upper rows of patches
    losses = heads(tokens, patches, batch)
    assert losses["dense"] < 0.05
    assert losses["_pointing"] == 1
