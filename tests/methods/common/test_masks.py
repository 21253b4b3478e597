"""Masks of samples and IoU."""

import torch

from methods.common.masks import mask_iou


def test_iou_counts_two_empty_masks_as_equal():
    empty, full = torch.zeros(4, 4, dtype=torch.bool), torch.ones(4, 4, dtype=torch.bool)
    half = full.clone()
    half[:2] = False
    pairs = torch.stack([torch.stack(p) for p in ((empty, empty), (empty, full), (half, full), (full, full))])
    assert mask_iou(pairs[:, 0], pairs[:, 1]).tolist() == [1, 0, 0.5, 1]
