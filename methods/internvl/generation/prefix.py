"""What prompts about the same image begin with, read once for all of them.

Shapes: I images, P tokens of the longest beginning, B rows, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from methods.internvl.backbone import Backbone
from methods.internvl.generation.kv_cache import Stepper


@dataclass(frozen=True)
class Prefix:
    """The keys and values of I beginnings.

    valid: bool [I, P], false where a shorter one is padded on the left; holes: whether some are. row_of: int64 [B], the
    beginning of each prompt of a batch.
    """

    stepper: Stepper
    valid: Tensor
    holes: bool
    row_of: Tensor

    def of(self, rows: list[int]) -> Prefix:
        """The same for a batch whose prompts begin so."""
        return replace(self, row_of=torch.tensor(rows, device=self.valid.device))

    @property
    def mask(self) -> Tensor:
        """bool [B, P], which keys exist."""
        return self.valid[self.row_of]


def read_prefix(backbone: Backbone, embeddings: Tensor, valid: Tensor) -> Prefix:
    """Embeddings [I, P, D] and valid bool [I, P] (on the CPU) of beginnings -> what prompts can go on from."""
    stepper, holes = Stepper(backbone.language_model), not bool(valid.all())
    valid = valid.to(embeddings.device, non_blocking=True)
    stepper.run(embeddings, prompt_positions(valid), prompt_mask(valid) if holes else None, causal=not holes)
    return Prefix(stepper, valid, holes, torch.arange(len(valid), device=valid.device))


def prompt_positions(valid: Tensor) -> Tensor:
    """int64 [B, L] of left-padded prompts, valid bool [B, L]."""
    return (valid.long().cumsum(1) - 1).clamp(min=0)


def prompt_mask(valid: Tensor) -> Tensor:
    """bool [B, 1, L, L]: what each token of left-padded prompts sees."""
    count = valid.shape[1]
    seen = valid[:, None, None] & causal_mask(count, count, valid.device)
    return seen | torch.eye(count, dtype=torch.bool, device=seen.device)  # padding that sees nothing would be NaN


def causal_mask(count: int, keys: int, device: torch.device) -> Tensor:
    """bool [count, keys]: which keys each of the last `count` tokens sees."""
    return torch.ones(count, keys, dtype=torch.bool, device=device).tril(keys - count)
