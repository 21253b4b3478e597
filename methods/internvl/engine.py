"""Greedy decoding of text with blocks of mask tokens in it, for any schedule, in batches.

Rows of a batch move in lock-step. A row is in text, waiting (it has written the start of a mask block) or done.
As long as some row is in text, one text step is made; when none is, the waiting rows write their block together.
Rows that take no part in a step are fed padding which the attention mask hides and which moves no position.

Shapes: B rows, L prompt tokens (left-padded), D width.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from methods.base import Schedule
from methods.internvl.model import Backbone

TEXT, WAITING, DONE = 0, 1, 2


class Clock:
    """Seconds per named stage, with the device synchronised at both ends of each."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.seconds: dict[str, float] = defaultdict(float)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = self._now()
        yield
        self.seconds[name] += self._now() - start


@dataclass(frozen=True)
class Block:
    """How a mask block begins, which schedule writes it, how many a row may write, and whether the tokens of one step
    see each other (`mutual`) or only the earlier ones."""

    start_id: int
    schedule: Callable[[], Schedule]
    most: int = 1
    mutual: bool = False


@dataclass
class Answer:
    """What one row wrote. In `text_ids` the value -1 stands for a block; `masks` and `mask_ids` hold the blocks."""

    text_ids: list[int] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)  # float [R, R], the codec's probabilities
    mask_ids: list[list[int]] = field(default_factory=list)
    steps: int = 0
    finished: bool = False  # False if the limit on text tokens cut it off


class Decoder:
    """One batch's decoding state: the key-value cache, which keys exist, and each row's next position."""

    def __init__(self, backbone: Backbone, embeddings: Tensor, valid: Tensor):
        """embeddings [B, L, D] and valid bool [B, L], false where a shorter prompt is padded on the left."""
        self.backbone = backbone
        self.cache = DynamicCache(config=backbone.language_model.config)
        self.mask = valid
        positions = (valid.long().cumsum(1) - 1).clamp(min=0)
        self.position = valid.sum(1)
        self.passes = 1
        self.hidden = backbone.run(embeddings, self._mask(), positions, self.cache)[:, -1]

    def _mask(self) -> Tensor | None:
        return None if bool(self.mask.all()) else self.mask.long()

    def feed(self, embeddings: Tensor, active: Tensor, mutual: bool = False) -> Tensor:
        """Feed n embeddings [B, n, D] to the active rows (bool [B]) -> hidden states [B, n, D].

        Each sees all that stood before and the earlier ones of the n, or with `mutual` all n."""
        count = embeddings.shape[1]
        self.mask = torch.cat([self.mask, active[:, None].expand(-1, count)], 1)
        positions = self.position[:, None] + torch.arange(count, device=active.device)
        self.position = self.position + count * active
        self.passes += 1
        mask = self.mask[:, None, None].expand(-1, -1, count, -1) if mutual else self._mask()
        hidden = self.backbone.run(embeddings, mask, positions, self.cache)
        self.hidden = torch.where(active[:, None], hidden[:, -1], self.hidden)
        return hidden

    def write(self, schedule: Schedule, active: Tensor, mutual: bool = False) -> None:
        """Let the active rows write one block of mask tokens, and feed what must follow it."""
        low, high = schedule.vocabulary
        inputs = schedule.first(len(active))
        while inputs is not None:
            inputs = schedule.next(self.backbone.head(self.feed(inputs, active, mutual), low, high))
        self.feed(self.backbone.embed(schedule.tail()), active)


@torch.inference_mode()
def decode(
    backbone: Backbone,
    embeddings: Tensor,
    valid: Tensor,
    stop_id: int,
    block: Block | None,
    text_rows: int,
    most_text: int = 64,
    clock: Clock | None = None,
) -> list[Answer]:
    """Greedy answers to B prompts.

    embeddings [B, L, D], valid bool [B, L]. Text tokens are chosen among the first `text_rows` rows of the head,
    so that no mask token can stand in text; within a block only the schedule's own rows are looked at. After
    `block.most` blocks the start token is no longer offered. At most `most_text` text tokens are written per row.
    """
    clock = clock or Clock(embeddings.device)
    with clock.stage("prefill"):
        state = Decoder(backbone, embeddings, valid)
    answers = [Answer() for _ in embeddings]
    phase = [TEXT] * len(answers)
    while any(row != DONE for row in phase):
        if TEXT in phase:
            with clock.stage("text"):
                _text_step(state, answers, phase, stop_id, block, text_rows, most_text)
        else:
            _block(state, answers, phase, block, clock)
    for answer in answers:
        answer.steps = state.passes
    return answers


def _text_step(state, answers, phase, stop_id, block, text_rows, most_text) -> None:
    logits = state.backbone.head(state.hidden, 0, text_rows).float()
    if block is not None:
        used_up = torch.tensor([len(answer.masks) >= block.most for answer in answers], device=logits.device)
        logits[used_up, block.start_id] = -torch.inf
    choice = logits.argmax(-1)
    chosen = choice.tolist()
    for row, token in enumerate(chosen):
        if phase[row] != TEXT:
            continue
        if token == stop_id:
            phase[row], answers[row].finished = DONE, True
        elif block is not None and token == block.start_id:
            phase[row] = WAITING
        else:
            answers[row].text_ids.append(token)
            if len(answers[row].text_ids) >= most_text:
                phase[row] = DONE
    if TEXT in phase:
        active = torch.tensor([row == TEXT for row in phase], device=choice.device)
        state.feed(state.backbone.embed(choice[:, None]), active)


def _block(state, answers, phase, block, clock) -> None:
    waiting = [row for row, now in enumerate(phase) if now == WAITING]
    active = torch.zeros(len(phase), dtype=torch.bool, device=state.hidden.device)
    active[waiting] = True
    schedule = block.schedule()
    with clock.stage("mask"):
        state.write(schedule, active, block.mutual)
    with clock.stage("codec"):
        masks, ids = schedule.probabilities(), schedule.ids().tolist()
    for row in waiting:
        answers[row].text_ids.append(-1)
        answers[row].masks.append(masks[row])
        answers[row].mask_ids.append(ids[row])
        phase[row] = TEXT
