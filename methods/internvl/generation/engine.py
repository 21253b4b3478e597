"""Greedy decoding of text with blocks of mask tokens in it, for any schedule, in batches.

Rows of a batch move in lock-step. A row is in text, waiting (it has written the start of a mask block) or done.
As long as some row is in text, one text step is made; when none is, the waiting rows write their block together.
Rows that take no part in a step are fed padding which the attention mask hides and which moves no position.

Where all rows are expected to answer in the same words ("The mask: <mask>."), the words before the mask are read with
the prompt and those behind it with the block's end, each in one pass. The model's own choices, which the same passes
give, are compared with them; if one differs, the answers are written again word by word. So the answer is always the
model's own.

Shapes: B rows, L prompt tokens (left-padded), D width.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from methods.base import Decoding, Schedule
from methods.enlarge import as_released
from methods.internvl.backbone import Backbone
from methods.internvl.generation.cuda_graphs import GraphDecoder
from methods.internvl.generation.decoder import Decoder, OfficialDecoder
from methods.internvl.generation.kv_cache import without_cudnn_attention
from methods.internvl.generation.prefix import Prefix
from methods.internvl.generation.timing import Clock

TEXT, WAITING, DONE = 0, 1, 2
DECODERS = {"fast": Decoder, "cuda_graphs": GraphDecoder, "official": OfficialDecoder}  # by Decoding.backend


@dataclass(frozen=True)
class Block:
    """How a mask block begins, which schedule writes it, how many a row may write, and whether the tokens of one step
    see each other (`bidirectional`) or only the earlier ones."""

    start_id: int
    schedule: Callable[[], Schedule]
    most: int = 1
    bidirectional: bool = False


@dataclass(frozen=True)
class Draft:
    """The ids of an answer's fixed words before its first mask block and behind it; `after` may end with the id that
    ends the answer, or earlier, where the words are no longer fixed."""

    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass
class Answer:
    """What one row wrote. In `text_ids` the value -1 stands for a block; `masks` and `mask_ids` hold the blocks."""

    text_ids: list[int] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)  # of the rows that are watched, at each of text_ids
    masks: list[Tensor] = field(default_factory=list)  # float [R, R], the mask tokenizer's probabilities
    mask_ids: list[list[int]] = field(default_factory=list)
    steps: int = 0
    corrections: int | None = None  # see methods.base.Prediction
    finished: bool = False  # False if the limit on text tokens cut it off


@dataclass(frozen=True)
class Writer:
    """All that decoding of one batch needs to know beside the prompts: see `decode`."""

    backbone: Backbone
    stop_id: int
    block: Block | None
    text_rows: int
    most_text: int
    clock: Clock
    decoding: Decoding
    draft: Draft | None
    prefix: Prefix | None
    watched: tuple[int, int] | None = None

    # ---- expected words -----------------------------------------------------------------------------------------

    def drafted(self, embeddings: Tensor, valid: Tensor) -> tuple[Decoder, list[Answer], list[int]] | None:
        """The answers as far as the draft goes, in few passes; None if the model would have said something else."""
        batch, draft, schedule = len(embeddings), self.draft, self.block.schedule()
        before, start, after = (
            torch.tensor(ids, dtype=torch.long, device=embeddings.device).expand(batch, -1)
            for ids in (draft.before, (self.block.start_id,), draft.after)
        )
        with self.clock.stage("prefill"):
            first = schedule.first(batch)
            if self.block.bidirectional and first.shape[1] > 1:
                return None  # the prompt's pass is causal
            fed = torch.cat([embeddings, self.backbone.embed(before), first.to(embeddings.dtype)], 1)
            exists = torch.cat([valid, valid.new_ones(batch, fed.shape[1] - valid.shape[1])], 1)
            state = DECODERS[self.decoding.backend](self.backbone, fed, exists, self.prefix)
        begin = valid.shape[1] - 1
        if not self._agrees(state, state.prompt[:, begin : begin + len(draft.before) + 1], [before, start], 0):
            return None
        with self.clock.stage("mask"):
            begun = state.prompt[:, -first.shape[1] :]
            read = after[:, :-1] if self._stops(draft) else after  # the last word is chosen, but never read
            ended = state.write(schedule, None, self.block.bidirectional, begun, read, self.clock)
        answers = [Answer(list(draft.before)) for _ in range(batch)]
        self.take(answers, range(batch), schedule)
        if not self._agrees(state, ended[:, ended.shape[1] - read.shape[1] - 1 :][:, : after.shape[1]], [after], 1):
            return None
        for answer in answers:
            answer.text_ids += draft.after[: read.shape[1]]
            answer.finished = self._stops(draft)
        return state, answers, [DONE if answer.finished else TEXT for answer in answers]

    def _stops(self, draft: Draft) -> bool:
        return draft.after[-1:] == (self.stop_id,)

    def _agrees(self, state: Decoder, hidden: Tensor, expected: list[Tensor], blocks: int) -> bool:
        """Whether the words that the states [B, n, D] choose are the expected ones [B, n]."""
        if self.decoding.answer_text == "forced":
            return True
        with self.clock.stage("text"):
            logits = state.head(hidden, 0, self.text_rows)
            if blocks >= self.block.most:
                logits[..., self.block.start_id] = -torch.inf
            return bool((logits.argmax(-1) == torch.cat(expected, 1)).all())

    # ---- word by word -------------------------------------------------------------------------------------------

    def text_step(self, state: Decoder, answers: list[Answer], phase: list[int]) -> None:
        logits = state.head(state.hidden, 0, self.text_rows).float()
        if self.block is not None:
            used_up = torch.tensor([len(answer.masks) >= self.block.most for answer in answers], device=logits.device)
            logits[used_up, self.block.start_id] = -torch.inf
        choice = logits.argmax(-1)
        chosen = choice.tolist()
        if self.decoding.answer_text == "forced" and self.draft is not None:
            chosen = [self._forced(answer) for answer in answers]
            choice = torch.tensor(chosen, device=choice.device)
        for row, token in enumerate(chosen):
            if phase[row] != TEXT:
                continue
            if self.watched is not None:
                answers[row].logits.append(logits[row, slice(*self.watched)].clone())  # a view would keep all rows
            if token == self.stop_id:
                phase[row], answers[row].finished = DONE, True
            elif self.block is not None and token == self.block.start_id:
                phase[row] = WAITING
            else:
                answers[row].text_ids.append(token)
                if len(answers[row].text_ids) >= self.most_text:
                    phase[row] = DONE
        if TEXT in phase:
            active = torch.tensor([row == TEXT for row in phase], device=choice.device)
            state.feed(self.backbone.embed(choice[:, None]), None if all(p == TEXT for p in phase) else active)

    def _forced(self, answer: Answer) -> int:
        words = (*self.draft.before, self.block.start_id, *self.draft.after)
        return words[len(answer.text_ids)] if len(answer.text_ids) < len(words) else self.stop_id

    def write_block(self, state: Decoder, answers: list[Answer], phase: list[int]) -> None:
        waiting = [row for row, now in enumerate(phase) if now == WAITING]
        active = torch.tensor([now == WAITING for now in phase], device=state.hidden.device)
        schedule = self.block.schedule()
        with self.clock.stage("mask"):
            everyone = len(waiting) == len(phase)
            state.write(schedule, None if everyone else active, self.block.bidirectional, clock=self.clock)
        self.take(answers, waiting, schedule)
        for row in waiting:
            phase[row] = TEXT

    def take(self, answers: list[Answer], rows, schedule: Schedule) -> None:
        """Put a finished block into the answers of some rows."""
        device, precision = self.clock.device.type, self.backbone.language_model.norm.weight.dtype
        low = precision != torch.float32  # mask tokenizers keep their weights in float32, which their ids need
        with self.clock.stage("mask_tokenizer"):
            released = as_released() if self.decoding.backend == "official" else nullcontext()
            with torch.autocast(device, precision) if low else nullcontext(), released:
                masks = schedule.probabilities()
            ids = schedule.ids().tolist()
        for row in rows:
            answers[row].text_ids.append(-1)
            answers[row].masks.append(masks[row])
            answers[row].mask_ids.append(ids[row])
            if schedule.corrections is not None:
                answers[row].corrections = (answers[row].corrections or 0) + schedule.corrections[row]


@torch.inference_mode()
@without_cudnn_attention()
def decode(
    backbone: Backbone,
    embeddings: Tensor,
    valid: Tensor,
    stop_id: int,
    block: Block | None,
    text_rows: int,
    most_text: int = 64,
    clock: Clock | None = None,
    decoding: Decoding | None = None,
    draft: Draft | None = None,
    prefix: Prefix | None = None,
    watched: tuple[int, int] | None = None,
) -> list[Answer]:
    """Greedy answers to B prompts.

    embeddings [B, L, D], valid bool [B, L]. Text tokens are chosen among the first `text_rows` rows of the head,
    so that no mask token can stand in text; within a block only the schedule's own rows are looked at. After
    `block.most` blocks the start token is no longer offered. At most `most_text` text tokens are written per row.
    draft: what all rows are expected to say. prefix: what stands before each prompt and was read already (but with the
    official backend). watched: rows [low, high) of the head whose logits are kept at each step in text.
    """
    clock, decoding = clock or Clock(embeddings.device), decoding or Decoding()
    writer = Writer(backbone, stop_id, block, text_rows, most_text, clock, decoding, draft, prefix, watched)
    begun = None
    if draft is not None and decoding.backend != "official" and decoding.answer_text != "generated":
        begun = writer.drafted(embeddings, valid)
    if begun is None:
        with clock.stage("prefill"):
            state = DECODERS[decoding.backend](backbone, embeddings, valid, prefix)
        begun = state, [Answer() for _ in embeddings], [TEXT] * len(embeddings)
    state, answers, phase = begun
    while any(row != DONE for row in phase):
        if TEXT in phase:
            with clock.stage("text"):
                writer.text_step(state, answers, phase)
        else:
            writer.write_block(state, answers, phase)
    for answer in answers:
        answer.steps = state.passes
    return answers
