"""HiMTok on InternVL2.5: vocabulary, three training stages, and answers.

Stage "tokenizer" trains the codec alone; "align" trains language model, vision tower and detokenizer together, with
the hierarchical mask loss reaching the language model through soft codes; "tune" trains the language model and the
vision tower on cross-entropy only. Encoder, latents and code book are frozen after the first stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from methods.base import Example, Request, TrainingSample, UserError
from methods.himtok import tasks
from methods.himtok.codebook import CodebookKeeper, tokenizer_loss
from methods.himtok.hierarchy import HierarchyConfig, hierarchical_loss
from methods.himtok.schedule import TokenByToken
from methods.himtok.tokenizer import CodecConfig, MaskTokenizer
from methods.internvl import checkpoint
from methods.internvl import tasks as shared
from methods.internvl.chat import IGNORED, Turn
from methods.internvl.engine import Block
from methods.internvl.method import InternVLMethod, Options, tuples
from methods.internvl.model import Backbone
from methods.internvl.vocabulary import add_tokens, load_tokenizer, token_id

START, END = "<|mt_start|>", "<|mt_end|>"
BOX_SCALE = 999  # the released evaluation divides by 999


def code_token(index: int) -> str:
    return f"<|mt_{index}|>"


class HiMTok(InternVLMethod):
    name: ClassVar[str] = "himtok"
    stages: ClassVar[tuple[str, ...]] = ("tokenizer", "align", "tune")

    def __init__(
        self, backbone: Backbone | None, tokenizer: Any, options: Options, codec: MaskTokenizer,
        hierarchy: HierarchyConfig, decode: str = "soft",
    ):  # fmt: skip
        super().__init__(backbone, tokenizer, options)
        self.codec = codec
        self.hierarchy = hierarchy
        self.decode = decode
        self.keeper: dict[str, int] = {}  # settings of stage 1's CodebookKeeper
        if backbone is not None:
            self.start_id, self.end_id = token_id(tokenizer, START), token_id(tokenizer, END)
            self.low = token_id(tokenizer, code_token(0))

    # ---- building, files ------------------------------------------------------------------------------------

    @classmethod
    def build(cls, parts: Mapping[str, Any], corpus: Callable[[], Iterable[str]]) -> HiMTok:
        """parts: `start` (folder of a HiMTok model to go on with); or `backbone` (folder of an InternVL model; left
        out in stage 1), `codec` (sizes) or `tokenizer` (folder of a stage-1 model), `hierarchy`, `keeper` (settings
        of CodebookKeeper), `seed`."""
        if "start" in parts:
            return cls.from_pretrained(Path(parts["start"]))
        seed = int(parts.get("seed", 0))
        torch.manual_seed(seed)
        if "tokenizer" in parts:
            codec = cls.from_pretrained(Path(parts["tokenizer"])).codec
        else:
            codec = MaskTokenizer(CodecConfig(**tuples(parts.get("codec", {}))))
        hierarchy = HierarchyConfig(**parts.get("hierarchy", {}))
        if "backbone" not in parts:
            method = cls(None, None, Options(box_scale=BOX_SCALE), codec, hierarchy)
            method.keeper = dict(parts.get("keeper", {}))
            return method
        base = InternVLMethod.from_pretrained(Path(parts["backbone"]))
        add_tokens(base.tokenizer, [START, END, *(code_token(i) for i in range(codec.size))])
        base.backbone.resize_vocabulary(len(base.tokenizer), seed)
        options = replace(base.options, box_scale=BOX_SCALE)
        return cls(base.backbone, base.tokenizer, options, codec, hierarchy)

    def config(self) -> dict[str, Any]:
        return checkpoint.describe(self) | {
            "codec": asdict(self.codec.config),
            "hierarchy": asdict(self.hierarchy),
            "decode": self.decode,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> HiMTok:
        tokenizer = load_tokenizer(folder) if config["backbone"] else None
        backbone = checkpoint.empty_backbone(config, tokenizer)
        codec = MaskTokenizer(CodecConfig(**tuples(config["codec"])))
        hierarchy = HierarchyConfig(**config["hierarchy"])
        return cls(backbone, tokenizer, Options(**config["options"]), codec, hierarchy, config["decode"])

    # ---- training -------------------------------------------------------------------------------------------

    def enter_stage(self, stage: str) -> None:
        super().enter_stage(stage)
        if stage == "tokenizer":
            self.heads = self.heads or CodebookKeeper(self.codec, **self.keeper)
            return
        self.codec.requires_grad_(stage == "align")
        for part in (self.codec.encoder, self.codec.quantize):
            part.requires_grad_(False)
        self.codec.latent_tokens.requires_grad_(False)

    def codec_view(self, example: Example) -> np.ndarray:
        """As released: 8-bit grey, bicubic, aspect ratio not kept, soft edges stay."""
        if example.mask is None:
            raise UserError(f"{example.dataset} sample {example.ref_id}: the task needs a mask; use other data.")
        side = self.codec.resolution
        grey = Image.fromarray(example.mask.astype(np.uint8) * 255)
        return np.asarray(grey.resize((side, side), Image.Resampling.BICUBIC), np.float32) / 255

    def conversation(self, example: Example, task: str, size: tuple[int, int], rng: np.random.Generator) -> list[Turn]:
        if task not in tasks.TASKS:
            return super().conversation(example, task, size, rng)
        box = shared.write_box(example.box, *size, self.options.box_scale) if example.box else ""
        phrase = shared.join_expressions(example.expressions)
        request, answer = tasks.request_and_answer(task, phrase, box, rng)
        return [Turn("user", shared.with_image(request, self.options.image_first)), Turn("assistant", answer)]

    def mask_block(self) -> list[int]:
        return [self.start_id, *([self.low] * self.codec.length), self.end_id]

    def prepare(self, example: Example, task: str, rng: np.random.Generator) -> TrainingSample:
        if self.stage == "tokenizer":
            return TrainingSample([], [], masks=[self.codec_view(example)])
        return super().prepare(example, task, rng)

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        if self.stage == "tokenizer":
            return tokenizer_loss(self.codec, self.heads, batch["masks"], dice=1.0)
        blocks = self._fill(batch)
        hidden, _ = self.hidden_states(batch)
        each, target = self.token_losses(hidden, batch["labels"])
        losses = {"text": each.mean()}
        code = target >= self.low
        if code.any():
            losses["_codes"] = each[code].mean().detach()
        if self.stage == "align" and blocks is not None:
            losses |= self._mask_losses(hidden, batch, *blocks)
        return losses

    def _fill(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
        """Write the masks' codes over the placeholders -> row [M, 1] and columns [M, T] of every block's codes."""
        if "masks" not in batch:
            return None
        return fill_codes(batch["ids"], batch["labels"], self.start_id, self.low + self.codec.encode(batch["masks"]))

    def _mask_losses(self, hidden: Tensor, batch: dict[str, Any], rows: Tensor, columns: Tensor) -> dict[str, Tensor]:
        """Soft codes of the blocks that are answers, decoded and compared with their masks."""
        answers = batch["labels"][rows, columns[:, :1]][:, 0] != IGNORED
        states = hidden[rows[answers], columns[answers] - 1]  # the state before a token predicts it
        logits = self.backbone.head(states, self.low, self.low + self.codec.size).float()
        probabilities = (logits / self.hierarchy.temperature).softmax(-1)
        return hierarchical_loss(self.codec, probabilities, batch["masks"][answers, 0], self.hierarchy)

    # ---- answering ------------------------------------------------------------------------------------------

    def questions(self, request: Request) -> list[tuple[tuple[str, ...], str]]:
        phrase = shared.join_expressions(request.expressions)
        if "box" in request.want:
            return [(("mask", "box"), tasks.SEGMENT_BOX_REQUESTS[0].format(phrase=phrase))]
        return [(("mask",), tasks.SEGMENT_REQUESTS[0].format(phrase=phrase))]

    @property
    def text_rows(self) -> int:
        return self.low

    def block(self, tokens: int | None) -> Block:
        count = self.codec.length if tokens is None else tokens
        if not 1 <= count <= self.codec.length:
            raise UserError(f"A HiMTok mask has 1 to {self.codec.length} tokens, not {count}; ask for fewer.")

        def schedule() -> TokenByToken:
            return TokenByToken(
                self.backbone, self.codec, self.low, self.start_id, self.end_id, count,
                self.hierarchy.temperature, self.decode == "soft",
            )  # fmt: skip

        return Block(self.start_id, schedule)


def fill_codes(ids: Tensor, labels: Tensor, start_id: int, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Write codes [M, T] (as vocabulary ids) after each start token of ids [B, L], in place and in reading order;
    labels are overwritten only where they are learned. -> rows [M, 1] and columns [M, T] of what was written."""
    rows, starts = (ids == start_id).nonzero(as_tuple=True)
    rows = rows[:, None]
    columns = starts[:, None] + 1 + torch.arange(codes.shape[1], device=ids.device)
    ids[rows, columns] = codes
    learned = labels[rows, columns] != IGNORED
    labels[rows, columns] = torch.where(learned, codes, IGNORED)
    return rows, columns
