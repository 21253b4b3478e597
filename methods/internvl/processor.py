"""Images, chat format, labels and batches of every method on InternVL; no weights, so data workers hold no model.

A method's processor adds its mask block, its preprocessing of masks and its tasks.

Shapes: B rows, L tokens, N tiles, M masks in a batch, R side of the mask tokenizer's grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from methods.base import Example, Request, RequestOptions, TrainingSample, UserError
from methods.images import open_image
from methods.internvl import prompts
from methods.internvl.chat import IGNORED, IMAGE, MASK, Chat, Turn
from methods.internvl.config import BackboneSize, ProcessorConfig
from methods.internvl.tiles import cut_tiles, in_square, make_tiles


class InternVLProcessor:
    """methods.base.Processor for boxes, captions and questions; the base of the mask-writing methods' own."""

    name = "InternVL"  # in messages

    def __init__(self, tokenizer: Any, size: BackboneSize, config: ProcessorConfig):
        self.tokenizer, self.size, self.config = tokenizer, size, config
        self.chat = Chat(tokenizer, size.tokens_per_tile, config.system)
        self._last_image: tuple[str, np.ndarray, tuple[int, int]] | None = None

    @property
    def mask_block(self) -> list[int]:
        """The ids that stand for one `<mask>` before the mask tokenizer has filled them in."""
        return []

    def preprocess_mask(self, example: Example) -> np.ndarray:
        """The example's mask as the mask tokenizer is to see it: float32 [R, R] in 0..1."""
        raise UserError(f"{self.name} has no mask tokenizer; train a box, a caption or a question.")

    # ---- training -------------------------------------------------------------------------------------------

    def conversation(self, example: Example, task: str, size: tuple[int, int], rng: np.random.Generator) -> list[Turn]:
        """The turns of a task; size = (width, height) of the image. Subclasses add their own tasks."""
        if task == "conversation":
            return self._written(example)
        return prompts.converse(example, task, size, self.config.box_scale, self.config.image_first, rng)

    def _written(self, example: Example) -> list[Turn]:
        """The conversation as a file has it."""
        where = f"{example.dataset} sample {example.ref_id}"
        if not example.turns:
            raise UserError(f"{where}: the task 'conversation' needs a written one; use other data.")
        self.chat.check([text.replace(IMAGE, "").replace(MASK, "") for _, text in example.turns], f"{where}: a turn")
        return [Turn(role, text) for role, text in example.turns]

    def prepare(self, example: Example, task: str, rng: np.random.Generator) -> TrainingSample:
        where = f"{example.dataset} sample {example.ref_id}"
        self.chat.check(example.expressions, f"{where}: the expression")
        self.chat.check([example.answer or ""], f"{where}: the answer")
        key, pixels, size = self._tiles(example)
        turns = self.conversation(example, task, size, rng)
        ids, labels = self.chat.encode(turns, len(pixels), self.mask_block)
        sample = TrainingSample(ids, labels, pixels, key)
        for _ in range(sum(turn.text.count(MASK) for turn in turns)):
            sample.masks.append(self.preprocess_mask(example))
        return sample

    def truncate(self, sample: TrainingSample, length: int, where: str) -> None:
        """Cut a sample to `length` tokens. Raises UserError if that would cut the image or a mask (the official code
        trains on what is left of it), or leave nothing to be learned."""
        if len(sample.ids) <= length:
            return
        whole, cut = {self.chat.image_id, *self.mask_block}, sample.ids[length:]
        if not whole.isdisjoint(cut):
            what = "image" if self.chat.image_id in cut else "mask"
            raise UserError(
                f"{where}: has {len(sample.ids)} tokens, and its {what} would be cut at {length}; raise max_length."
            )
        sample.ids, sample.labels = sample.ids[:length], sample.labels[:length]
        if all(label == IGNORED for label in sample.labels):
            raise UserError(f"{where}: its answer begins after {length} tokens; raise max_length.")

    def _tiles(self, example: Example) -> tuple[str, np.ndarray, tuple[int, int]]:
        """(key, tiles, (width, height)); the last image is kept, because its other samples come next."""
        key = f"{example.dataset}/{example.split}/{example.image_id}: {example.image}"
        if self._last_image is None or self._last_image[0] != key:
            image = open_image(example.image)
            tiles = cut_tiles(image, self.size.image_size, self.config.max_tiles)
            self._last_image = (key, tiles, image.size)
        return self._last_image

    def collate(self, samples: Sequence[TrainingSample], pack: bool = False) -> dict[str, Any]:
        """Right-padded ids and labels [B, L]; tiles of distinct images uint8 [N, 3, S, S] with the tile of each
        placeholder group `tile_of`; masks [M, 1, R, R]; stacked extras. Packed, B is 1, `positions` [1, L] start
        again with each sample, and `lengths` (a list) tell attention where."""
        ids, labels, packing = _packed(samples) if pack else _padded(samples)
        tiles, first_tile, tile_of = [], {}, []
        for sample in samples:
            if sample.image is not None:
                if sample.image_key not in first_tile:
                    first_tile[sample.image_key] = sum(len(tile) for tile in tiles)
                    tiles.append(sample.image)
                start = first_tile[sample.image_key]
                tile_of += range(start, start + len(sample.image))
        batch: dict[str, Any] = {"ids": ids, "labels": labels} | packing
        if tiles:
            batch |= {"pixels": torch.from_numpy(np.concatenate(tiles)), "tile_of": torch.tensor(tile_of)}
        masks = [mask for sample in samples for mask in sample.masks]
        if masks:
            batch["masks"] = torch.from_numpy(np.stack(masks))[:, None]
        for name in samples[0].extras:
            batch[name] = torch.from_numpy(np.stack([sample.extras[name] for sample in samples]))
        return batch

    # ---- answering ------------------------------------------------------------------------------------------

    def pixels(self, image: Image.Image, options: RequestOptions) -> np.ndarray:
        """An opened image as the model is to see it: float32 [tiles, 3, S, S]."""
        image = in_square(image) if options.letterbox else image
        return make_tiles(image, self.size.image_size, options.tiles or self.config.max_tiles)

    def check_words(self, request: Request) -> None:
        """Raise UserError if a text of the request holds what has a meaning of its own in a conversation."""
        for text in (*request.expressions, *filter(None, [request.options.question])):
            self.chat.check([text], f"The expression {text!r}")

    def instructions(self, request: Request, past: Sequence[Turn] = ()) -> list[tuple[tuple[str, ...], str]]:
        """What to ask for a request: (what the answer yields, the user's text without the image). `past` are the
        turns before, while a conversation is held.

        Raises UserError for a request that the method cannot serve."""
        self.refuse_more_than_words(request)
        phrase = prompts.join_expressions(request.expressions)
        return [(("mask", "box"), prompts.BOX_REQUESTS[0].format(phrase=phrase))]

    def refuse_more_than_words(self, request: Request) -> None:
        """Raise UserError for anything but the mask and/or the box of what expressions describe."""
        if not request.want or not {"mask", "box"}.issuperset(request.want):
            wanted = " and ".join(request.want) or "nothing"
            raise UserError(f"{self.name} answers with a mask or a box, not with {wanted}; ask for those.")
        if request.mask is not None or request.box is not None or request.points:
            raise UserError(f"{self.name} is asked with words alone; give no mask, box or points.")
        if not request.expressions:
            raise UserError("A request has no expression; say what to segment.")

    def prompt(self, text: str, tiles: int, past: Sequence[Turn] = ()) -> list[int]:
        """Ids of the turns before and of the user's text, ready for the answer; the image stands in the first turn."""
        first, *later = [*past, Turn("user", text)]
        turns = [Turn(first.role, prompts.with_image(first.text, self.config.image_first)), *later]
        return self.chat.encode(turns, tiles, reply=True)[0]

    def expected(self, request: Request, want: tuple[str, ...], past: Sequence[Turn] = ()) -> str | None:
        """The fixed words of the answer to one of a request's instructions, up to where they are no longer fixed, with
        `<mask>` in its place; None if they do not reach so far."""
        return None

    def answer_text(self, ids: Sequence[int]) -> str:
        """The text of an answer with special tokens kept and `<mask>` for each -1, where a block stood."""
        pieces, run = [], []
        for token in [*ids, -1]:
            if token == -1:
                pieces.append(self.tokenizer.decode(run, skip_special_tokens=False))
                run = []
            else:
                run.append(token)
        return MASK.join(pieces)


def _padded(samples: Sequence[TrainingSample]) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Ids and labels [B, L], right-padded."""
    length = max(len(sample.ids) for sample in samples)
    ids = torch.zeros(len(samples), length, dtype=torch.long)
    labels = torch.full((len(samples), length), IGNORED)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
        labels[row, : len(sample.labels)] = torch.tensor(sample.labels)
    return ids, labels, {}


def _packed(samples: Sequence[TrainingSample]) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Ids, labels and positions [1, sum of L], and the lengths; the first token of a sample is never learned, so that
    nothing is predicted across a border."""
    ids = torch.cat([torch.tensor(sample.ids) for sample in samples])
    labels = torch.cat([torch.tensor([IGNORED, *sample.labels[1:]][: len(sample.ids)]) for sample in samples])
    positions = torch.cat([torch.arange(len(sample.ids)) for sample in samples])
    lengths = [len(sample.ids) for sample in samples]
    return ids[None], labels[None], {"positions": positions[None], "lengths": lengths}
