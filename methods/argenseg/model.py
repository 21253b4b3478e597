"""ARGenSeg on InternVL2.5: vocabulary, joint training, and answers.

Stage "tokenizer" trains the stand-in for the general picture tokenizer; "joint" trains projector and language model
on the sum of a text and a visual cross-entropy, with the vision tower and the tokenizer frozen.

A mask is `<ge_start>`, 679 slots and `<ge_end>`. The state at `<ge_start>` predicts visual token 0, the state at
slot j predicts token j, and `<ge_end>` is never a target: it is forced. Slot j is fed the sum of all earlier scales,
shrunk to its own scale and projected, plus a level and a position embedding; no visual token has an input embedding.

Shapes: B rows, L tokens, D width, M masks, T = 680 visual tokens, C code width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from methods.argenseg import tasks
from methods.argenseg.pictures import CodebookKeeper, tokenizer_loss
from methods.argenseg.schedule import ScaleByScale
from methods.argenseg.tokenizer import VQVAE, CodecConfig
from methods.base import Example, Request, TrainingSample, UserError, open_image
from methods.internvl import checkpoint
from methods.internvl import tasks as shared
from methods.internvl.chat import IGNORED, Turn
from methods.internvl.engine import Block
from methods.internvl.method import InternVLMethod, Options, tuples
from methods.internvl.model import Backbone
from methods.internvl.vocabulary import add_tokens, load_tokenizer, token_id

PLACEHOLDER, START, END, CONTEXT = "<mask>", "<ge_start>", "<ge_end>", "<MASK_CONTEXT>"


class ARGenSeg(InternVLMethod):
    name: ClassVar[str] = "argenseg"
    stages: ClassVar[tuple[str, ...]] = ("tokenizer", "joint")

    def __init__(self, backbone: Backbone | None, tokenizer: Any, options: Options, codec: VQVAE):
        super().__init__(backbone, tokenizer, options)
        self.codec = codec
        self.keeper: dict[str, int] = {}  # settings of the tokenizer stage's CodebookKeeper
        if backbone is None:
            return
        self.start_id, self.end_id = token_id(tokenizer, START), token_id(tokenizer, END)
        self.context_id = token_id(tokenizer, CONTEXT)
        self.low = len(tokenizer)  # visual ids follow the text vocabulary; no text contains them
        width, code_width = backbone.width, codec.config.code_width
        self.word_embed = nn.Linear(code_width, width)
        self.lvl_embed = nn.Embedding(len(codec.quantize.scales), width)
        self.pos_1LC = nn.Parameter(torch.zeros(1, codec.length, width))
        lengths = torch.tensor(codec.quantize.lengths)
        levels = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        self.register_buffer("level_of_slot", levels, persistent=False)

    # ---- building, files ------------------------------------------------------------------------------------

    @classmethod
    def build(cls, parts: Mapping[str, Any], corpus: Callable[[], Iterable[str]]) -> ARGenSeg:
        """parts: `start` (folder of an ARGenSeg model to go on with); or `backbone` (folder of an InternVL model; left
        out in the tokenizer's stage), `codec` (sizes) or `tokenizer` (folder of that stage), `keeper` (settings of
        CodebookKeeper), `init` ("zeros" as released, or "var"), `seed`."""
        if "start" in parts:
            return cls.from_pretrained(Path(parts["start"]))
        seed = int(parts.get("seed", 0))
        torch.manual_seed(seed)
        if "tokenizer" in parts:
            codec = cls.from_pretrained(Path(parts["tokenizer"])).codec
        else:
            codec = VQVAE(CodecConfig(**tuples(parts.get("codec", {}))))
        if "backbone" not in parts:
            method = cls(None, None, Options(), codec)
            method.keeper = dict(parts.get("keeper", {}))
            return method
        base = InternVLMethod.from_pretrained(Path(parts["backbone"]))
        add_tokens(base.tokenizer, [PLACEHOLDER, START, END, CONTEXT])
        base.backbone.resize_vocabulary(len(base.tokenizer) + codec.size, seed)
        method = cls(base.backbone, base.tokenizer, base.options, codec)
        method.initialise(str(parts.get("init", "zeros")))
        return method

    @torch.no_grad()
    def initialise(self, init: str) -> None:
        """Start values of the slot inputs: "zeros" (the release) or "var", small normals like VAR's own."""
        deviation = {"zeros": 0.0, "var": (1 / self.backbone.width / 3) ** 0.5}.get(init)
        if deviation is None:
            raise UserError(f"There is no start called {init!r} for ARGenSeg; choose zeros or var.")
        for parameter in (self.word_embed.weight, self.word_embed.bias, self.lvl_embed.weight, self.pos_1LC):
            parameter.normal_(0, deviation) if deviation else parameter.zero_()

    def config(self) -> dict[str, Any]:
        return checkpoint.describe(self) | {"codec": asdict(self.codec.config)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> ARGenSeg:
        tokenizer = load_tokenizer(folder) if config["backbone"] else None
        backbone = checkpoint.empty_backbone(config, tokenizer)
        return cls(backbone, tokenizer, Options(**config["options"]), VQVAE(CodecConfig(**tuples(config["codec"]))))

    # ---- training -------------------------------------------------------------------------------------------

    def enter_stage(self, stage: str) -> None:
        super().enter_stage(stage)
        if stage == "tokenizer":
            self.heads = self.heads or CodebookKeeper(self.codec, **self.keeper)
        else:
            self.codec.requires_grad_(False)
            self.backbone.vision_tower.requires_grad_(False)

    def codec_view(self, example: Example) -> np.ndarray:
        """White on black, squashed to a square with Pillow's bicubic filter."""
        if example.mask is None:
            raise UserError(f"{example.dataset} sample {example.ref_id}: the task needs a mask; use other data.")
        side = self.codec.resolution
        grey = Image.fromarray(example.mask.astype(np.uint8) * 255)
        return np.asarray(grey.resize((side, side), Image.Resampling.BICUBIC), np.float32) / 255

    def conversation(self, example: Example, task: str, size: tuple[int, int], rng: np.random.Generator) -> list[Turn]:
        if task not in tasks.TASKS:
            return super().conversation(example, task, size, rng)
        request = tasks.SEGMENT_REQUEST.format(phrase=", ".join(example.expressions))
        answer = Turn("assistant", tasks.SEGMENT_ANSWER)
        return [Turn("user", shared.with_image(request, self.options.image_first)), answer]

    def mask_block(self) -> list[int]:
        return [self.start_id, *([self.context_id] * (self.codec.length - 1)), self.end_id]

    def prepare(self, example: Example, task: str, rng: np.random.Generator) -> TrainingSample:
        if self.stage != "tokenizer":
            return super().prepare(example, task, rng)
        side = self.codec.resolution
        picture = open_image(example.image).resize((side, side), Image.Resampling.BICUBIC)
        pixels = np.asarray(picture, np.float32).transpose(2, 0, 1) / 127.5 - 1
        return TrainingSample([], [], masks=[self.codec_view(example)], extras={"picture": pixels})

    def collate(self, samples: Sequence[TrainingSample]) -> dict[str, Any]:
        batch = super().collate(samples)
        if self.stage == "tokenizer":  # half of the samples as masks, half as scenes
            masks = len(samples) - len(samples) // 2
            drawn = batch.pop("masks")[:masks].expand(-1, 3, -1, -1) * 2 - 1
            batch["pictures"] = torch.cat([drawn, batch.pop("picture")[masks:]])
        return batch

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        if self.stage == "tokenizer":
            pictures = batch["pictures"]
            return tokenizer_loss(self.codec, self.heads, pictures, len(pictures) - len(pictures) // 2)
        hidden, _ = self.hidden_states(batch, self._fill(batch))
        each, target = self.token_losses(hidden, batch["labels"])
        visual = target >= self.low
        losses = {}
        if (~visual).any():
            losses["text"] = each[~visual].mean()
        if visual.any():
            losses["visual"] = each[visual].mean()
        return losses

    def slot_inputs(self, cells: Tensor, start: int) -> Tensor:
        """Shrunk sums [M, n, C] of consecutive slots from `start` on -> language-model inputs [M, n, D]."""
        slots = slice(start, start + cells.shape[1])
        return self.word_embed(cells) + self.lvl_embed(self.level_of_slot[slots]) + self.pos_1LC[0, slots]

    def _fill(self, batch: dict[str, Any]) -> Tensor | None:
        """Write the masks' visual ids into the labels -> embeddings [B, L, D] with the slot inputs in place."""
        if "masks" not in batch:
            return None
        ids = self.codec.encode(batch["masks"])
        rows, starts = (batch["ids"] == self.start_id).nonzero(as_tuple=True)
        rows = rows[:, None]
        columns = starts[:, None] + 1 + torch.arange(self.codec.length, device=starts.device)
        learned = batch["labels"][rows, columns] != IGNORED
        batch["labels"][rows, columns] = torch.where(learned, self.low + ids, IGNORED)
        inputs = self.slot_inputs(self.codec.quantize.teacher_forcing(ids), 1)
        embeddings = self.backbone.embed(batch["ids"])
        return embeddings.index_put((rows, columns[:, :-1]), inputs.to(embeddings.dtype))

    # ---- answering ------------------------------------------------------------------------------------------

    def questions(self, request: Request) -> list[tuple[tuple[str, ...], str]]:
        """A mask and a box are two questions: the model was taught to write one or the other."""
        asked = []
        if "mask" in request.want:
            phrase = ", ".join(request.expressions)
            asked.append((("mask",), tasks.SEGMENT_REQUEST.format(phrase=phrase)))
        if "box" in request.want:
            phrase = shared.join_expressions(request.expressions)
            asked.append((("box",), shared.BOX_REQUESTS[0].format(phrase=phrase)))
        return asked

    @property
    def text_rows(self) -> int:
        return self.low

    def block(self, tokens: int | None) -> Block:
        counts = list(self.codec.prefixes)
        if tokens not in (None, *counts):
            raise UserError(f"An ARGenSeg mask is made of whole scales: {counts} tokens, not {tokens}; choose one.")
        scales = counts.index(tokens or counts[-1]) + 1
        return Block(self.start_id, lambda: ScaleByScale(self, scales))
