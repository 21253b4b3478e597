"""Masks on the way: what a mask tokenizer decodes from the first tokens of an answer, or from its first scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FEW = 12  # numbers of tokens that are shown, of more as many at equal distances
BATCH = 16
Step = tuple[int, np.ndarray]  # tokens, bool [H, W]


def evenly(prefixes: Sequence[int]) -> list[int]:
    """All numbers of tokens if they are few, or as many at equal distances."""
    places = np.linspace(0, len(prefixes) - 1, min(FEW, len(prefixes))).round().astype(int)
    return [prefixes[place] for place in places]


def fourfold(prefixes: Sequence[int]) -> list[int]:
    """All numbers of tokens if they are few (scales), or the first, those four times as large each, and the last."""
    if len(prefixes) <= FEW:
        return list(prefixes)
    kept = [prefixes[0]]
    for count in prefixes:
        if count >= 4 * kept[-1]:
            kept.append(count)
    return list(dict.fromkeys([*kept, prefixes[-1]]))


def decode_steps(
    method: str, weights: Path, rows: Sequence[Mapping[str, Any]],
    choose: Callable[[Sequence[int]], list[int]] = evenly,
) -> list[list[Step]]:  # fmt: skip
    """Lines of scores -> the masks after the first tokens of each; none for a line without whole tokens.

    weights: the folder of the model that wrote them. choose: of the numbers of tokens that have a mask, those that are
    shown. Raises UserError as loading does.
    """
    import torch  # the rest of a report needs none

    from bench.evaluate.mask_tokens import load_mask_tokenizer
    from bench.runtime import device_of

    mask_tokenizer = load_mask_tokenizer(method, weights)
    found: list[list[Step]] = [[] for _ in rows]
    for count in choose(mask_tokenizer.prefixes):
        able = [at for at, row in enumerate(rows) if _fits(row, count, mask_tokenizer.size)]
        for start in range(0, len(able), BATCH):
            part = able[start : start + BATCH]
            ids = torch.tensor([rows[at]["token_ids"][:count] for at in part], device=device_of())
            with torch.inference_mode():
                decoded = mask_tokenizer.decode(ids)
            for at, probabilities in zip(part, decoded, strict=True):
                found[at].append((count, mask_tokenizer.postprocess_mask(probabilities, tuple(rows[at]["size"]))))
    return found


def _fits(row: Mapping[str, Any], count: int, size: int) -> bool:
    ids = row.get("token_ids") or ()
    return len(ids) >= count and all(isinstance(each, int) and 0 <= each < size for each in ids[:count])
