"""A learned length (the idea of ALTo): the model ends a mask itself where more tokens would hardly change it.

In training a block ends at the shortest prefix whose reconstruction is within a threshold of the whole one's, so that
the end token is learned there. Which prefix that is only the mask tokenizer can say; it costs one decoding per prefix
and no gradient. To answer so a model needs adaptive_length.rule "end_token".

Shapes: B rows, L places, M blocks, T tokens of a mask, R side of the tokenizer's grid.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor

from methods.base import UserError
from methods.common.masks import mask_iou
from methods.himtok.config import LearnedLength
from methods.himtok.mask_tokenizer import MaskTokenizer
from methods.internvl.chat import IGNORED


@torch.no_grad()
def shortest_prefixes(mask_tokenizer: MaskTokenizer, ids: Tensor, masks: Tensor, threshold: float) -> Tensor:
    """ids [M, T] of masks [M, 1, R, R] -> int64 [M]: the least of the prefixes whose decoded mask agrees with the
    mask nearly as well (IoU) as that of all tokens."""
    expected = masks[:, 0] > 0.5
    ious = torch.stack(
        [mask_iou(mask_tokenizer.decode(ids[:, :count]) > 0.5, expected) for count in mask_tokenizer.prefixes]
    )
    good = ious >= ious[-1] - threshold
    return torch.tensor(mask_tokenizer.prefixes, device=ids.device)[good.int().argmax(0)]


def cut_blocks(
    ids: Tensor, labels: Tensor, start_id: int, end_id: int, lengths: Tensor
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """ids and labels [B, L] with the blocks, in reading order, cut to lengths [M]; right-padded to the longest row."""
    rows, starts = (ids == start_id).nonzero(as_tuple=True)
    ends = (ids == end_id).nonzero(as_tuple=True)[1]
    left = torch.ones_like(ids, dtype=torch.bool)
    for row, start, end, length in zip(*(x.tolist() for x in (rows, starts, ends, lengths)), strict=True):
        left[row, start + 1 + length : end] = False
    order, count = (~left).int().argsort(dim=1, stable=True), left.sum(1, keepdim=True)
    inside = torch.arange(ids.shape[1], device=ids.device) < count
    ids = torch.where(inside, ids.gather(1, order), 0)
    labels = torch.where(inside, labels.gather(1, order), IGNORED)
    most = int(count.max())
    return ids[:, :most], labels[:, :most]


def cut_answers(
    batch: MutableMapping[str, Any],
    codes: Tensor,
    mask_tokenizer: MaskTokenizer,
    start_id: int,
    end_id: int,
    learned: LearnedLength,
) -> None:
    """Replace a padded batch's ids and labels by ones in which some of the whole blocks that are answers end early;
    codes [M, T] are those of its masks. Raises UserError for a packed batch."""
    if "positions" in batch:
        raise UserError("model.learned_length cuts samples after they are packed; set pack to false.")
    ids, labels = batch["ids"], batch["labels"]
    rows, starts = (ids == start_id).nonzero(as_tuple=True)
    whole = (ids == end_id).nonzero(as_tuple=True)[1] - starts - 1 == mask_tokenizer.length
    chosen = (torch.rand(len(codes)) < learned.share).to(ids.device)
    lengths = shortest_prefixes(mask_tokenizer, codes, batch["masks"], learned.threshold)
    lengths = torch.where(whole & chosen & (labels[rows, starts + 1] != IGNORED), lengths, mask_tokenizer.length)
    batch["ids"], batch["labels"] = cut_blocks(ids, labels, start_id, end_id, lengths)
