"""One batch's decoding state: which keys exist, each row's next position, and how a block of mask tokens is written.

`Decoder` is the fast backend (`cuda_graphs.py` replays it from CUDA graphs). `OfficialDecoder` does the same as the
official codes do it, for comparison: transformers' own forward with a cache that grows, the head over the whole
vocabulary at every step (over the whole prompt too), and the host waiting for every chosen token.

Shapes: B rows, L prompt tokens (left-padded), n tokens of a step, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from methods.base import Schedule
from methods.internvl.backbone import Backbone
from methods.internvl.generation.kv_cache import Stepper
from methods.internvl.generation.prefix import Prefix, causal_mask, prompt_mask, prompt_positions
from methods.internvl.generation.timing import Clock


class Decoder:
    def __init__(self, backbone: Backbone, embeddings: Tensor, valid: Tensor, prefix: Prefix | None = None):
        """embeddings [B, L, D] and valid bool [B, L], false where a shorter prompt is padded on the left; prefix: what
        stands before each prompt and was read already. `valid` is looked at: where it is on a GPU, the host
        waits until all that was asked of the GPU before is done, so it had better be on the CPU.

        `hidden` [B, D] is each row's last state, `prompt` [B, L, D] all of the first pass."""
        self.backbone = backbone
        self.holes = not bool(valid.all())  # whether some row has keys that do not exist
        valid = valid.to(embeddings.device, non_blocking=True)
        self.mask = valid
        self.position = valid.sum(1)
        self.passes = 1
        self.prompt = self._begin(embeddings, prompt_positions(valid), prefix)
        self.hidden = self.prompt[:, -1]

    def _begin(self, embeddings: Tensor, positions: Tensor, prefix: Prefix | None) -> Tensor:
        if prefix is None:
            self.stepper = self._stepper(embeddings)
            seen = prompt_mask(self.mask) if self.holes else None
            return self.stepper.run(embeddings, positions, seen, causal=not self.holes)
        self.stepper = prefix.stepper.taken(prefix.row_of)
        self.holes = self.holes or prefix.holes
        self.mask = torch.cat([prefix.mask, self.mask], 1)
        known = prefix.mask.sum(1)
        self.position = self.position + known
        return self._step(embeddings, positions + known[:, None], False)

    def _stepper(self, embeddings: Tensor) -> Stepper:
        return Stepper(self.backbone.language_model)

    def _step(self, embeddings: Tensor, positions: Tensor, bidirectional: bool) -> Tensor:
        count, keys = embeddings.shape[1], self.mask.shape[1]
        seen = self.mask[:, None, None].expand(-1, -1, count, -1) if self.holes else None
        if count > 1 and not bidirectional:
            causal = causal_mask(count, keys, embeddings.device)
            seen = causal if seen is None else seen & causal
        return self.stepper.run(embeddings, positions, seen)

    def head(self, hidden: Tensor, low: int, high: int) -> Tensor:
        """Logits of vocabulary rows [low, high)."""
        return self.backbone.head(hidden, low, high)

    def feed(self, embeddings: Tensor, active: Tensor | None = None, bidirectional: bool = False) -> Tensor:
        """Feed n embeddings [B, n, D] to the active rows (bool [B], None for all) -> hidden states [B, n, D].

        Each sees all that stood before and the earlier ones of the n, or with `bidirectional` all n."""
        count = embeddings.shape[1]
        self.holes = self.holes or active is not None
        active = self.mask.new_ones(len(embeddings)) if active is None else active
        positions = self.position[:, None] + torch.arange(count, device=active.device)
        self._count(count, active)
        hidden = self._step(embeddings, positions, bidirectional)
        self.hidden = torch.where(active[:, None], hidden[:, -1], self.hidden)
        return hidden

    def _count(self, count: int, active: Tensor) -> None:
        """Take note of `count` more keys of the active rows (bool [B])."""
        self.mask = torch.cat([self.mask, active[:, None].expand(-1, count)], 1)
        self.position = self.position + count * active
        self.passes += 1

    def logits(self, inputs: Tensor, active: Tensor | None, bidirectional: bool, rows: tuple[int, int]) -> Tensor:
        """Feed one step of a mask block [B, n, D] -> its logits [B, n, V] of vocabulary rows [low, high)."""
        return self.head(self.feed(inputs, active, bidirectional), *rows)

    def write(
        self,
        schedule: Schedule,
        active: Tensor | None,
        bidirectional: bool = False,
        begun: Tensor | None = None,
        follow: Tensor | None = None,
        clock: Clock | None = None,
    ) -> Tensor:
        """Let the active rows write one block of mask tokens, and feed what must follow it -> states of that [B, n, D];
        where nothing must, the last state of the first step, which is then the only one.

        begun: hidden states [B, n, D] of the first step, if its inputs have been fed already. follow: ids [B, n] of
        text that is fed with what must follow.
        """
        clock = clock or Clock(self.hidden.device)
        rows = schedule.vocabulary
        if begun is None:
            with clock.step():
                begun = self.feed(schedule.first(len(self.hidden)), active, bidirectional)
        inputs = schedule.next(begun) if rows is None else self._next(schedule, self.head(begun, *rows))
        assert rows is not None or inputs is None, "hidden states are read in one step"
        while inputs is not None:
            with clock.step():
                going = schedule.unfinished
                if going is not None and active is not None:
                    going = going & active
                logits = self.logits(inputs, active if going is None else going, bidirectional, rows)
                inputs = self._next(schedule, logits)
        tail = schedule.tail() if follow is None else torch.cat([schedule.tail(), follow], 1)
        return self.feed(self.backbone.embed(tail), active) if tail.shape[1] else begun[:, -1:]

    def _next(self, schedule: Schedule, logits: Tensor) -> Tensor | None:
        return schedule.next(logits)


class OfficialDecoder(Decoder):
    def _begin(self, embeddings: Tensor, positions: Tensor, prefix: Prefix | None) -> Tensor:
        assert prefix is None, "the official codes read every prompt whole"
        self.cache = DynamicCache(config=self.backbone.language_model.config)
        hidden = self.backbone.run(embeddings, self._mask(), positions, self.cache)
        self.backbone.head(hidden).float()  # of which only the last row is looked at
        return hidden

    def _step(self, embeddings: Tensor, positions: Tensor, bidirectional: bool) -> Tensor:
        count = embeddings.shape[1]
        mask = self.mask[:, None, None].expand(-1, -1, count, -1) if bidirectional else self._mask()
        return self.backbone.run(embeddings, mask, positions, self.cache)

    def _mask(self) -> Tensor | None:
        return None if bool(self.mask.all()) else self.mask.long()

    def head(self, hidden: Tensor, low: int, high: int) -> Tensor:
        return self.backbone.head(hidden).float()[..., low:high]

    def _next(self, schedule: Schedule, logits: Tensor) -> Tensor | None:
        logits.argmax(-1).tolist()  # the host waits for the token
        return schedule.next(logits)
