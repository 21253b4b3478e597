"""Reconstructions of a mask tokenizer that can be computed by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bench.data.dataset import ExampleDataset
from bench.evaluate.mask_groups import aspect_of, outline_of, parts_of, place_of, size_of
from bench.evaluate.reconstruction import reconstruct, reconstruction_records
from bench.records import BREAKDOWN, RECONSTRUCTION, RESIZE_ALONE
from methods.base import Example, UserError


class Rows:
    """Masks of 4 x 4 pixels; a token holds a row as bits, and rows without a token are empty."""

    resolution, length, size, prefixes = 4, 4, 16, (1, 2, 4)
    weights = 2 ** torch.arange(4)

    def parameters(self):
        return iter(())

    def preprocess_mask(self, mask):
        return mask.astype(np.float32)

    def encode(self, masks, tokens=None):
        return (masks[:, 0].long() * self.weights).sum(-1)[:, : tokens or 4]

    def decode(self, ids):
        rows = (ids[..., None] // self.weights % 2).float()
        return torch.cat([rows, torch.zeros(len(rows), 4 - rows.shape[1], 4)], 1)

    def postprocess_mask(self, probabilities, size, mask_resize=""):
        return np.asarray(probabilities) > 0.5


def example(number, mask):
    return Example(Path(), ("",), mask, dataset="own", split="val", image_id=number, ref_id=number)


def mask_of(*rows):
    return np.array([[character == "#" for character in row] for row in rows])


COLUMN = mask_of("#...", "#...", "#...", "#...")
BLOCK = mask_of("....", ".##.", ".##.", "....")
EMPTY = np.zeros((4, 4), bool)


def test_every_number_of_tokens_every_group_and_the_codebook():
    dataset = ExampleDataset([example(0, COLUMN), example(1, EMPTY), example(2, BLOCK)], "own")
    found = reconstruct(Rows(), dataset)
    assert {count: found.iou(count).tolist() for count in found.intersections} == {
        0: [1, 1], 1: [0.25, 0], 2: [0.5, 0.5], 4: [1, 1]}  # fmt: skip
    plain = {"parts": "1 part", "outline": "plain"}
    assert found.groups == [
        plain | {"size": "15 % and more", "aspect": "tall", "place": "at several borders"},
        plain | {"size": "15 % and more", "aspect": "compact", "place": "in the middle"},
    ]
    records = reconstruction_records(found, Rows(), dataset="own", split="val", method="rows")
    giou = {r.tokens: r.value for r in records if r.kind == RECONSTRUCTION and r.metric == "giou" and not r.variant}
    ciou = {r.tokens: r.value for r in records if r.kind == RECONSTRUCTION and r.metric == "ciou" and not r.variant}
    assert giou == {1: 0.125, 2: 0.5, 4: 1.0} and ciou == {1: 0.125, 2: 0.5, 4: 1.0}
    assert [r.value for r in records if r.variant == RESIZE_ALONE] == [1.0, 1.0]
    groups = [r for r in records if r.kind == BREAKDOWN]
    assert {str(r.group): (r.value, r.n) for r in groups}["{'aspect': 'tall'}"] == (1.0, 1)
    assert all(r.low is None for r in groups if r.n == 1)  # no interval over one image
    (used,) = [r.value for r in records if r.metric == "codes_used"]
    (perplexity,) = [r.value for r in records if r.metric == "perplexity"]
    assert used == 3 / 16  # 0, 1 and 6
    shares = np.array([4, 2, 2]) / 8
    assert perplexity == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_the_worst_come_first_and_the_limit_counts_masks():
    dataset = ExampleDataset([example(0, EMPTY), *(example(n, COLUMN) for n in range(1, 40)), example(40, BLOCK)])
    found = reconstruct(Rows(), dataset, limit=35, worst=3)
    assert len(found.groups) == 35 and [row[0].ref_id for row in found.worst] == [1, 2, 3]

    class Forgetful(Rows):
        def decode(self, ids):
            return super().decode(ids) * (ids.shape[1] < 4 or ids[:, :1, None] == 0)

    (first, again, iou), *_ = reconstruct(Forgetful(), dataset, worst=3).worst
    assert first.ref_id == 1 and iou == 0 and not again.any()


def test_a_dataset_without_masks():
    with pytest.raises(UserError, match="own val: holds no masks"):
        reconstruct(Rows(), ExampleDataset([example(0, EMPTY), example(1, None)], "own"))


def test_where_a_mask_is():
    wide = mask_of("....", "####", "....", "....")
    assert (aspect_of(wide), aspect_of(wide.T), aspect_of(BLOCK)) == ("wide", "tall", "compact")
    spot = np.zeros((20, 30), bool)
    spot[5, 2] = True
    assert (place_of(spot), place_of(spot[:, ::-1])) == ("on the left", "on the right")
    assert [place_of(np.roll(spot, *way)) for way in ((-2, 1), (27, 1), (-5, 0), (14, 0))] == [
        f"at the {side} border" for side in ("left", "right", "top", "bottom")]  # fmt: skip
    sizes = {pixels: size_of(np.arange(600).reshape(20, 30) < pixels) for pixels in (5, 6, 24, 90, 600)}
    assert list(sizes.values()) == ["below 1 %", "1 to 4 %", "4 to 15 %", "15 % and more", "15 % and more"]


def test_parts_and_outlines_are_told_apart():
    places = np.arange(60) - 29.5
    radius = np.hypot(*np.meshgrid(places, places))
    disc, ring = radius < 20, (radius < 20) & (radius > 14)
    bar = np.zeros((60, 60), bool)
    bar[28:32, 5:55] = True
    assert [outline_of(mask) for mask in (disc, ring, bar)] == ["plain", "complex", "complex"]
    speck, two, three = disc.copy(), bar.copy(), bar.copy()
    speck[0, 0] = two[50:55, 5:30] = three[50:55, 5:30] = three[10:15, 5:30] = True
    assert [parts_of(mask) for mask in (speck, two, three)] == ["1 part", "2 parts", "3 parts and more"]
