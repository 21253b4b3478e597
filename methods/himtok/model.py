"""HiMTok on InternVL2.5: mask vocabulary, losses, and answers.

Stage "align" trains language model, vision tower and detokenizer together, with the hierarchical mask loss reaching the
language model through soft codes; "tune" trains the language model and the vision tower on cross-entropy only. Encoder,
latents and code book of the mask tokenizer are frozen after stage 1 (tokenizer_training.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.base import DEFAULT, Decoding, Prediction, Request, UserError
from methods.himtok import prompts
from methods.himtok.config import (
    BOX_SCALE,
    INITS,
    AdaptiveLength,
    HierarchyConfig,
    LearnedLength,
    MaskTokenizerConfig,
    ModelStage,
    Speech,
)
from methods.himtok.hierarchy import blurred, hierarchical_loss, mask_loss
from methods.himtok.learned_length import cut_answers
from methods.himtok.mask_tokenizer import MaskTokenizer
from methods.himtok.processor import HiMTokProcessor
from methods.himtok.prompts import END, START, PromptTemplate, code_token
from methods.himtok.schedule import TokenByToken
from methods.himtok.tokenizer_training import MaskTokenizerTraining
from methods.internvl import checkpoint
from methods.internvl.backbone import Backbone
from methods.internvl.chat import IGNORED, MASK, Turn
from methods.internvl.config import ProcessorConfig
from methods.internvl.generation.engine import Answer, Block
from methods.internvl.model import InternVLModel, changed, made
from methods.internvl.vocabulary import add_tokens


class HiMTok(InternVLModel):
    name: ClassVar[str] = "himtok"
    stages: ClassVar[tuple[str, ...]] = ("align", "tune")

    def __init__(
        self, backbone: Backbone, processor: HiMTokProcessor, mask_tokenizer: MaskTokenizer,
        hierarchy: HierarchyConfig, decode: str = "soft", length: AdaptiveLength | None = None,
    ):  # fmt: skip
        """decode, length: how masks are written (see schedule.py)."""
        super().__init__(backbone, processor)
        self.mask_tokenizer = mask_tokenizer
        self.hierarchy = hierarchy
        self.decode = decode
        self.length = length or AdaptiveLength()
        self.token_loss_weighting = "tokens"
        self.learned_length = LearnedLength()  # of training; `length` is what ends an answer

    # ---- building, files ------------------------------------------------------------------------------------

    @classmethod
    def build(cls, config: Mapping[str, Any], corpus: Callable[[], Iterable[str]]) -> Self:
        """See config.ModelStage."""
        made(ModelStage, config)
        model = cls._continued(config) if "start" in config else cls._fresh(config)
        masks = model.mask_tokenizer
        masks.config = replace(masks.config, mask_resize=str(config.get("mask_resize", masks.config.mask_resize)))
        model.learned_length = made(LearnedLength, config.get("learned_length", {}), "learned_length")
        length = asdict(model.length) | dict(config.get("adaptive_length", {}))
        model.length = made(AdaptiveLength, length, "adaptive_length")
        model.backbone.drop_path(float(config.get("drop_path", 0)))
        model.token_loss_weighting = str(config.get("token_loss_weighting", "tokens"))
        return model

    @classmethod
    def _continued(cls, config: Mapping[str, Any]) -> Self:
        model = cls.from_pretrained(Path(config["start"]))
        if "mask_tokenizer" in config:
            other, own = MaskTokenizerTraining.load(Path(config["mask_tokenizer"])), model.mask_tokenizer
            if (other.size, other.length) != (own.size, own.length):
                sizes = f"{other.length} tokens of {other.size} codes, not {own.length} of {own.size}"
                raise UserError(f"{config['mask_tokenizer']}: has {sizes}, as the model does; take another tokenizer.")
            other.config = replace(other.config, mask_resize=own.config.mask_resize)
            model.mask_tokenizer = other
        hierarchy = asdict(model.hierarchy) | dict(config.get("hierarchy", {}))
        model.hierarchy = made(HierarchyConfig, hierarchy, "hierarchy")
        old = model.processor
        model.processor = HiMTokProcessor(
            old.tokenizer, old.size, changed(old.config, config.get("processor", {})), model.mask_tokenizer.config,
            PromptTemplate(config["prompt_template"]) if "prompt_template" in config else old.template,
            bool(config.get("budget_in_prompt", old.budget_in_prompt)),
        )  # fmt: skip
        return model

    @classmethod
    def _fresh(cls, config: Mapping[str, Any]) -> Self:
        seed = int(config.get("seed", 0))
        torch.manual_seed(seed)
        if "mask_tokenizer" in config:
            masks = MaskTokenizerTraining.load(Path(config["mask_tokenizer"]))
        else:
            sizes = config.get("mask_tokenizer_config", {})
            masks = MaskTokenizer(made(MaskTokenizerConfig, sizes, "mask_tokenizer_config"))
            masks.initialise_from_scratch()
        hierarchy = made(HierarchyConfig, config.get("hierarchy", {}), "hierarchy")
        start = cls.start_from(config)
        known = len(start.tokenizer)
        add_tokens(start.tokenizer, [START, END, *(code_token(i) for i in range(masks.size))])
        start.backbone.resize_vocabulary(len(start.tokenizer), seed, known)
        own = changed(start.config, {"box_scale": BOX_SCALE} | dict(config.get("processor", {})))
        template = PromptTemplate(config.get("prompt_template", "ours"))
        processor = HiMTokProcessor(
            start.tokenizer, start.backbone.size, own, masks.config, template,
            bool(config.get("budget_in_prompt", False)),
        )  # fmt: skip
        model = cls(start.backbone, processor, masks, hierarchy)
        model.initialise(str(config.get("init", "mean")), seed)
        return model

    @torch.no_grad()
    def initialise(self, init: str, seed: int) -> None:
        """Start values of the mask tokens' rows: "mean", as every new token gets them, or "codes", a random projection
        of the code vectors, so that codes which mean nearly the same begin nearly alike (ours)."""
        if init not in INITS:
            raise UserError(f"There is no init {init!r} for HiMTok; choose mean or codes.")
        if init == "mean":
            return
        codes = F.normalize(self.mask_tokenizer.quantize.table(), dim=-1)
        generator = torch.Generator("cpu").manual_seed(seed)
        low, known = self.processor.mask_token_offset, self.processor.start_id
        for table in (self.backbone.language_model.embed_tokens.weight, self.backbone.native.lm_head.weight):
            old, size = table[:known].float(), (codes.shape[1], table.shape[1])
            projection = torch.randn(size, generator=generator, device="cpu", dtype=torch.float32).to(codes)
            table[low : low + self.mask_tokenizer.size] = old.mean(0) + old.std(0) * (codes @ projection)

    def config(self) -> dict[str, Any]:
        return checkpoint.describe(self) | {
            "mask_tokenizer": asdict(self.mask_tokenizer.config),
            "hierarchy": asdict(self.hierarchy),
            "decode": self.decode,
            "prompt_template": self.processor.template.source,
            "budget_in_prompt": self.processor.budget_in_prompt,
            "adaptive_length": asdict(self.length),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> Self:
        backbone, tokenizer = checkpoint.empty_backbone(config, folder)
        masks = MaskTokenizer(checkpoint.part(config, "mask_tokenizer", MaskTokenizerConfig, folder))
        own, speech = (
            checkpoint.part(config, "processor", ProcessorConfig, folder),
            checkpoint.choices(config, Speech, folder),
        )
        processor = HiMTokProcessor(
            tokenizer, backbone.size, own, masks.config, PromptTemplate(speech.prompt_template), speech.budget_in_prompt
        )
        hierarchy = checkpoint.part(config, "hierarchy", HierarchyConfig, folder)
        length = checkpoint.part(config, "adaptive_length", AdaptiveLength, folder)
        return cls(backbone, processor, masks, hierarchy, speech.decode, length)

    # ---- training -------------------------------------------------------------------------------------------

    def enter_stage(self, stage: str) -> None:
        super().enter_stage(stage)
        self.mask_tokenizer.requires_grad_(self.trains_detokenizer)
        for part in (self.mask_tokenizer.encoder, self.mask_tokenizer.quantize):
            part.requires_grad_(False)
        self.mask_tokenizer.latent_tokens.requires_grad_(False)

    @property
    def trains_detokenizer(self) -> bool:
        """Whether the stage has the mask losses."""
        return self.stage == "align"

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        blocks = self._fill(batch)
        hidden, _ = self.hidden_states(batch)
        each, target = self.token_losses(hidden, batch["labels"])
        weight = self._weights(batch["labels"], blocks)
        losses = {"text": (each * weight).sum() / weight.sum()}
        code = target >= self.processor.mask_token_offset
        if code.any():
            losses["_codes"] = each[code].mean().detach()
        if self.trains_detokenizer:
            masked = self._mask_losses(hidden, batch, blocks)
            losses["text"] = losses["text"] + masked.pop("idle")
            losses |= masked
        return losses

    def _weights(self, labels: Tensor, blocks: Blocks | None) -> Tensor:
        """What each supervised token of labels [B, L] counts, float [K]: 1, or within a block its share of the
        block's."""
        weights = torch.ones(labels.shape, device=labels.device)
        if self.token_loss_weighting == "octaves" and blocks is not None:
            counts = blocks.counts[:, None]
            place = torch.arange(blocks.columns.shape[1], device=labels.device).expand_as(blocks.columns)
            octave = place.clamp(min=1).log2().floor().long() + (place > 0)  # 0 | 1 | 2 3 | 4 ... 7 | 8 ... 15 | ...
            size = F.one_hot(octave).float().mul((place < counts).unsqueeze(-1)).sum(1)
            share = counts / (size > 0).sum(1, keepdim=True) / size.gather(1, octave).clamp(min=1)
            weights[blocks.rows.expand_as(place)[place < counts], blocks.columns[place < counts]] = share[
                place < counts
            ]
        return weights[:, 1:][labels[:, 1:] != IGNORED]

    def _fill(self, batch: dict[str, Any]) -> Blocks | None:
        """Write the masks' codes over the placeholders -> where every block's codes are."""
        if "masks" not in batch:
            return None
        codes, processor = self.mask_tokenizer.encode(batch["masks"]), self.processor
        ends = processor.start_id, processor.end_id
        if self.learned_length.share:
            cut_answers(batch, codes, self.mask_tokenizer, *ends, self.learned_length)
        return fill_codes(batch["ids"], batch["labels"], *ends, processor.mask_token_offset + codes)

    def _mask_losses(self, hidden: Tensor, batch: dict[str, Any], blocks: Blocks | None) -> dict[str, Tensor]:
        """Soft codes of the blocks that are answers, decoded and compared with their masks.

        A block of fewer tokens than the tokenizer's has one loss, "prefix", with the mask as sharp as the hierarchical
        loss wants it at that length. Every batch uses the same modules in the same order, or ZeRO's processes would get
        stuck: a kind of block that it lacks has the loss of some state and no mask, and "idle" is 0 times those.
        """
        tokenizer, low = self.mask_tokenizer, self.processor.mask_token_offset
        side = tokenizer.resolution
        states, masks = hidden[:1, -1:].expand(-1, tokenizer.length, -1), hidden.new_zeros(1, side, side).float()
        counts, spare = batch["ids"].new_ones(1), batch["ids"].new_ones(1, dtype=torch.bool)
        if blocks is not None:
            rows, columns, written = blocks
            answers = batch["labels"][rows, columns[:, :1]][:, 0] != IGNORED
            states = torch.cat([hidden[rows[answers], columns[answers] - 1], states])  # the one before predicts a token
            masks, counts = torch.cat([batch["masks"][answers, 0], masks]), torch.cat([written[answers], counts])
            spare = torch.cat([torch.zeros_like(counts[1:], dtype=torch.bool), spare])
        logits = self.backbone.head(states, low, low + tokenizer.size).float()
        probabilities = (logits / self.hierarchy.temperature).softmax(-1)
        whole = (counts == tokenizer.length) & ~spare
        short = ~whole & ~spare
        some = whole if whole.any() else spare
        losses = hierarchical_loss(tokenizer, probabilities[some], masks[some], self.hierarchy)
        used = dict.fromkeys(losses, whole.any()) | {"prefix": short.any()}
        some = short if short.any() else spare
        codes, kept, target = tokenizer.mix(probabilities[some]), counts[some], masks[some]
        if self.hierarchy.variant != "off":
            target = blurred(target, kept, tokenizer.length)
        losses["prefix"] = mask_loss(tokenizer.logits(codes, kept), target, self.hierarchy.dice)
        idle = 0 * sum(loss for name, loss in losses.items() if not used[name])
        return {name: loss for name, loss in losses.items() if used[name]} | {"idle": idle}

    # ---- answering ------------------------------------------------------------------------------------------

    def instructions(self, request: Request) -> list[tuple[tuple[str, ...], str]]:
        """With the codes of the request's mask in place of `<mask>`."""
        return [(want, self._spelled(text, request)) for want, text in super().instructions(request)]

    def _spelled(self, text: str, request: Request) -> str:
        if request.mask is None:
            return text
        view = torch.from_numpy(self.processor.given_mask(request)).to(self.device)
        ids = self.mask_tokenizer.encode(view[None, None])[0]
        return text.replace(MASK, prompts.spelled_out(ids.tolist()))

    @torch.inference_mode()
    def converse(self, requests: Sequence[Request], decoding: Decoding = DEFAULT) -> list[Prediction]:
        """Answer requests about one image as the turns of one conversation.

        What was said before, masks included, stays in the prompt. A later request without expressions asks for the
        mask or the box of what was spoken of.
        """
        predictions: list[Prediction] = []
        try:
            for request in requests:
                if request.image != requests[0].image:
                    raise UserError("The turns of a conversation are about one image; start another one for the next.")
                prediction = self.segment([request], decoding)[0]
                answer = prediction.text.replace(MASK, prompts.spelled_out(prediction.token_ids))
                ((_, instruction),) = self.instructions(request)
                self._past += [Turn("user", instruction), Turn("assistant", answer)]
                predictions.append(prediction)
        finally:
            self._past = []
        return predictions

    def _segment(self, requests: Sequence[Request], tokens: int | None, decoding: Decoding) -> list[Prediction]:
        """Where each mask finds its own length, requests are answered one by one."""
        if self.length.rule == "full":
            return super()._segment(requests, tokens, decoding)
        return [found for request in requests for found in super(HiMTok, self)._segment([request], tokens, decoding)]

    @property
    def text_rows(self) -> int:
        return self.processor.mask_token_offset

    def block(self, tokens: int | None, decoding: Decoding) -> Block:
        processor = self.processor
        obeys = processor.budget_in_prompt and self.length.rule == "end_token"  # the number is asked for, not enforced
        count = self.mask_tokenizer.length if tokens is None or obeys else tokens
        if not 1 <= count <= self.mask_tokenizer.length:
            raise UserError(f"A HiMTok mask has 1 to {self.mask_tokenizer.length} tokens, not {count}; ask for fewer.")
        expected = decoding.rule == "expected"
        temperature = decoding.temperature if expected else self.hierarchy.temperature
        soft = expected or (self.decode == "soft" and decoding.rule != "hard")

        def schedule() -> TokenByToken:
            return TokenByToken(
                self.backbone, self.mask_tokenizer, processor.start_id, processor.mask_token_offset, processor.end_id,
                count, temperature, soft, self.length, expected,
            )  # fmt: skip

        return Block(processor.start_id, schedule)

    # ---- answers that are not constrained ---------------------------------------------------------------------

    @property
    def watched(self) -> tuple[int, int]:
        return self.text_rows, self.text_rows + self.mask_tokenizer.size

    def first_mask(self, answer: Answer) -> Answer:
        """The official code decodes the T tokens after the first start token from their probabilities, if one more
        follows, whatever tokens they are."""
        ids, length = answer.text_ids, self.mask_tokenizer.length
        whole = [*ids, self.processor.chat.stop_id] if answer.finished else ids
        if self.processor.start_id not in ids:
            return answer
        first = ids.index(self.processor.start_id) + 1
        if len(whole) <= first + length:
            return answer
        logits = torch.stack(answer.logits[first : first + length]).float()
        soft = self.mask_tokenizer.decode_soft((logits / self.hierarchy.temperature).softmax(-1)[None])[0]
        text = [*ids[: first - 1], -1, *ids[first + length + (ids[first + length :][:1] == [self.processor.end_id]) :]]
        return replace(answer, text_ids=text, masks=[soft], mask_ids=[logits.argmax(-1).tolist()])

    def block_ids(self, mask_ids: Sequence[int]) -> list[int]:
        low, processor = self.processor.mask_token_offset, self.processor
        return [processor.start_id, *(low + number for number in mask_ids), processor.end_id]


class Blocks(NamedTuple):
    """Where the codes of M blocks stand in a batch: rows [M, 1], columns [M, T] (a short block repeats its last one)
    and how many each block has, counts [M]."""

    rows: Tensor
    columns: Tensor
    counts: Tensor


def fill_codes(ids: Tensor, labels: Tensor, start_id: int, end_id: int, codes: Tensor) -> Blocks:
    """Write codes [M, T] (as vocabulary ids) between each start and end token of ids [B, L], in place and in reading
    order; of a block with fewer places the first codes. Labels are overwritten only where they are supervised."""
    rows, starts = (ids == start_id).nonzero(as_tuple=True)
    ends = (ids == end_id).nonzero(as_tuple=True)[1]
    places = torch.arange(codes.shape[1], device=ids.device)
    written = places < (ends - starts - 1)[:, None]
    rows, columns = rows[:, None], torch.minimum(starts[:, None] + 1 + places, ends[:, None] - 1)
    where = rows.expand_as(columns)[written], columns[written]
    ids[where] = codes[written]
    labels[where] = torch.where(labels[where] != IGNORED, codes[written], IGNORED)
    return Blocks(rows, columns, written.sum(1))
