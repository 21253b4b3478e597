"""A learned length (the idea of ALTo): the model ends a mask itself where more tokens would hardly change it.

In training a block ends at the shortest prefix whose reconstruction is within a tolerance of the whole one's, so that
the end token is learned there. Which prefix that is only the mask tokenizer can say; it costs one decoding per prefix
and no gradient. To answer so a model needs the stopping rule "written".

Shapes: B rows, L places, M blocks, T tokens of a mask, R side of the tokenizer's grid.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from methods.base import UserError
from methods.himtok.mask_tokenizer import MaskTokenizer
from methods.himtok.schedule import change
from methods.internvl.chat import IGNORED


@dataclass(frozen=True)
class LearnedStop:
    """share: of the answers' whole blocks that are cut (0: none, as published); tolerance: IoU that a cut may cost."""

    share: float = 0.0
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or not 0 <= self.tolerance <= 1:
            raise UserError(
                f"parts.stop has the share {self.share} and the tolerance {self.tolerance}; give numbers of 0 to 1."
            )


@torch.no_grad()
def shortest_prefixes(codec: MaskTokenizer, ids: Tensor, masks: Tensor, tolerance: float) -> Tensor:
    """ids [M, T] of masks [M, 1, R, R] -> int64 [M]: the least of `codec.prefixes` whose decoded mask agrees with the
    mask nearly as well (IoU) as that of all tokens."""
    truth = masks[:, 0] > 0.5
    ious = torch.stack([1 - change(codec.decode(ids[:, :count]) > 0.5, truth) for count in codec.prefixes])
    good = ious >= ious[-1] - tolerance
    return torch.tensor(codec.prefixes, device=ids.device)[good.int().argmax(0)]


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
    batch: MutableMapping[str, Any], codes: Tensor, codec: MaskTokenizer, start_id: int, end_id: int, stop: LearnedStop
) -> None:
    """Replace a padded batch's ids and labels by ones in which some of the whole blocks that are answers end early;
    codes [M, T] are those of its masks. Raises UserError for a packed batch."""
    if "positions" in batch:
        raise UserError("parts.stop cuts samples after they are packed; set pack to false.")
    ids, labels = batch["ids"], batch["labels"]
    rows, starts = (ids == start_id).nonzero(as_tuple=True)
    whole = (ids == end_id).nonzero(as_tuple=True)[1] - starts - 1 == codec.length
    chosen = (torch.rand(len(codes)) < stop.share).to(ids.device)
    lengths = shortest_prefixes(codec, codes, batch["masks"], stop.tolerance)
    lengths = torch.where(whole & chosen & (labels[rows, starts + 1] != IGNORED), lengths, codec.length)
    batch["ids"], batch["labels"] = cut_blocks(ids, labels, start_id, end_id, lengths)
