"""InternVL2.5's conversation format and the labels that go with it.

    <|im_start|>system\n{system}<|im_end|>\n
    <|im_start|>user\n<img>[<IMG_CONTEXT> x 256 per tile]</img>\nquestion<|im_end|>\n
    <|im_start|>assistant\nanswer<|im_end|>\n

With InternLM2.5 `<s>` stands in front. An answer and its `<|im_end|>` are learned; everything else, the newline after
`<|im_end|>` included, is not.
In a turn's text `<image>` stands for the image and `<mask>` for one block of mask tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from methods.base import UserError
from methods.internvl.vocabulary import IMAGE_CONTEXT, IMAGE_END, IMAGE_START, TURN_END, TURN_START, token_id

IMAGE, MASK = "<image>", "<mask>"
IGNORED = -100
PLACEHOLDER = re.compile(f"({re.escape(IMAGE)}|{re.escape(MASK)})")
MARKUP = {"<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"}  # special tokens that a text may hold


@dataclass(frozen=True)
class Turn:
    role: str  # "user" or "assistant"
    text: str


@dataclass(frozen=True)
class Chat:
    """Encodes conversations for one tokenizer.

    `tokens_per_tile` image tokens stand for each tile; `system` is the system sentence, empty for no system turn.
    """

    tokenizer: PreTrainedTokenizerBase
    tokens_per_tile: int
    system: str = ""

    @property
    def stop_id(self) -> int:
        return token_id(self.tokenizer, TURN_END)

    @property
    def image_id(self) -> int:
        return token_id(self.tokenizer, IMAGE_CONTEXT)

    @cached_property
    def _begin(self) -> list[int]:
        """What the tokenizer puts before any text: `<s>` with InternLM2.5, nothing with Qwen2.5."""
        return self.tokenizer.encode("")

    @cached_property
    def _reserved(self) -> re.Pattern[str]:
        words = {IMAGE, MASK, *self.tokenizer.get_added_vocab()} - MARKUP
        return re.compile("|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)))

    def check(self, texts: Sequence[str], where: str) -> None:
        """Raise UserError if a text from outside holds a string that has a meaning of its own in a conversation."""
        for text in texts:
            found = self._reserved.search(text)
            if found:
                raise UserError(f"{where} holds {found[0]!r}, which stands for something else here; leave it out.")

    def encode(
        self, turns: Sequence[Turn], tiles: int = 1, mask_block: Sequence[int] = (), reply: bool = False
    ) -> tuple[list[int], list[int]]:
        """Ids and labels (both of length L, not shifted) of a conversation.

        `tiles` is the number of tiles that an `<image>` stands for and `mask_block` the ids that a `<mask>` stands
        for. With `reply` the header of an assistant turn is appended, ready for generation.
        """
        ids = list(self._begin)
        labels = [IGNORED] * len(ids)
        if self.system:
            self._append(ids, labels, f"{TURN_START}system\n", self.system, False, tiles, mask_block)
        for turn in turns:
            header = f"{TURN_START}{turn.role}\n"
            self._append(ids, labels, header, turn.text, turn.role == "assistant", tiles, mask_block)
        if reply:
            ids += self._text(f"{TURN_START}assistant\n")
        return ids, labels + [IGNORED] * (len(ids) - len(labels))

    def reply(self, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids of an assistant's answer before its `<mask>` and behind it, as `encode` would write them. What
        follows a "{" varies and is left out; else the id that ends the turn comes last."""
        fixed, varies, _ = text.partition("{")
        before, _, after = fixed.partition(MASK)
        header = f"{TURN_START}assistant\n"
        ids = self._text(header + before)[len(self._text(header)) :]
        return tuple(ids), tuple(self._text(after) + ([] if varies else [self.stop_id]))

    def _append(self, ids, labels, header, text, learned, tiles, mask_block) -> None:
        body = self._pieces(header + text, tiles, mask_block)
        end = self._text(TURN_END)
        ids += body + end
        skip = len(self._text(header))
        labels += [IGNORED] * skip + (body[skip:] + end if learned else [IGNORED] * (len(body) - skip + len(end)))
        newline = self._text("\n")
        ids += newline
        labels += [IGNORED] * len(newline)

    def _pieces(self, text: str, tiles: int, mask_block: Sequence[int]) -> list[int]:
        ids: list[int] = []
        for piece in PLACEHOLDER.split(text):
            if piece == IMAGE:
                ids += self._text(IMAGE_START) + [self.image_id] * (self.tokens_per_tile * tiles)
                ids += self._text(IMAGE_END)
            elif piece == MASK:
                ids += mask_block
            elif piece:
                ids += self._text(piece)
        return ids

    def _text(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)
