"""Where the slots of a mask lie in a sequence.

    <ge_start> [<MASK_CONTEXT> x (n - 1)] <ge_end>

Slot 0 is the start token, slot j the j-th placeholder. The state at slot j predicts visual token j, so with labels
that are not yet shifted token j is the label one place further on, and the last one takes the place of `<ge_end>`.

In training a block may hold the first scales only; blocks of one length are handled together.

Shapes: B rows, L tokens, M masks in a batch, n slots of a mask.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from methods.internvl.chat import IGNORED


class Slots(NamedTuple):
    """The blocks of one length in a batch: which of its masks they hold, int64 [M], and the rows [M, 1] and columns
    [M, n] of their slots."""

    masks: Tensor
    rows: Tensor
    columns: Tensor


def slot_places(ids: Tensor, start_id: int, slots: int) -> tuple[Tensor, Tensor]:
    """ids [B, L] -> rows [M, 1] and columns [M, n] of all slots, in reading order."""
    rows, starts = (ids == start_id).nonzero(as_tuple=True)
    return rows[:, None], starts[:, None] + torch.arange(slots, device=ids.device)


def slots_by_length(ids: Tensor, start_id: int, end_id: int) -> list[Slots]:
    """ids [B, L] -> the slots of all blocks, for each length of a block, the shortest first."""
    lengths = (ids == end_id).nonzero(as_tuple=True)[1] - (ids == start_id).nonzero(as_tuple=True)[1]
    found = []
    for length in lengths.unique().tolist():
        masks = (lengths == length).nonzero().flatten()
        rows, columns = slot_places(ids, start_id, length)
        found.append(Slots(masks, rows[masks], columns[masks]))
    return found


def write_labels(labels: Tensor, rows: Tensor, columns: Tensor, targets: Tensor | int) -> None:
    """Put the slots' targets [M, n] into labels [B, L], in place; a mask in a question stays unlearned."""
    learned = labels[rows, columns + 1] != IGNORED
    labels[rows, columns + 1] = torch.where(learned, targets, IGNORED)


def scale_mask(ids: Tensor, rows: Tensor, columns: Tensor, level_of_slot: Tensor) -> Tensor:
    """bool [B, 1, L, L], true where a key is seen: earlier tokens, and all slots of the query's own scale."""
    length = ids.shape[1]
    group = torch.full(ids.shape, -1, device=ids.device)
    number = torch.arange(len(columns), device=ids.device)[:, None] * (int(level_of_slot.max()) + 1)
    group[rows, columns] = number + level_of_slot
    same = (group[:, :, None] == group[:, None]) & (group >= 0)[:, None]
    causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
    return (causal | same)[:, None]
