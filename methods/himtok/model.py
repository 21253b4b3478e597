"""HiMTok on InternVL2.5: vocabulary, three training stages, and answers.

Stage "tokenizer" trains the codec alone; "align" trains language model, vision tower and detokenizer together, with
the hierarchical mask loss reaching the language model through soft codes; "tune" trains the language model and the
vision tower on cross-entropy only. Encoder, latents and code book are frozen after the first stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from methods.augment import augmented, check_augmentation
from methods.base import Example, Prediction, Request, TrainingSample, UserError, open_image
from methods.files import setting
from methods.himtok import prompts as tasks
from methods.himtok.adaptive_length import Spent, length_curve
from methods.himtok.hierarchy import HierarchyConfig, blurred, hierarchical_loss, mask_loss
from methods.himtok.mask_tokenizer import CodecConfig, MaskTokenizer, squashed
from methods.himtok.prompts import END, START, Templates, code_token
from methods.himtok.schedule import Stopping, TokenByToken
from methods.himtok.stop import LearnedStop, cut_answers
from methods.himtok.tokenizer_training import CodebookKeeper, tokenizer_loss
from methods.internvl import checkpoint
from methods.internvl import prompts as shared
from methods.internvl.backbone import Backbone
from methods.internvl.chat import IGNORED, MASK, Turn
from methods.internvl.generation.engine import Block
from methods.internvl.generation.timing import Clock
from methods.internvl.method import InternVLMethod, Options, check_parts, made
from methods.internvl.vocabulary import add_tokens, token_id

# Of a block's cross-entropy: every token alike (the paper), or every octave 1, 2, 3-4, 5-8, ... alike (ours). The first
# four of 32 tokens, which say where the object is, weigh an eighth of a block in the one and half of it in the other.
BALANCES = ("tokens", "octaves")
CONVERSIONS = ("direct", "released")
# parts of new and of started models
BOTH = "tokenizer hierarchy keeper augmentation stop stopping balance options templates tokens_in_words conversion"
BOX_SCALE = 999  # the released evaluation divides by 999


@dataclass(frozen=True)
class Speech:
    """What config.json says at its top of how a model asks and answers; see HiMTok's constructor."""

    decode: str = setting("soft", choices=("soft", "hard"))
    templates: str | Mapping[str, Any] = "own"
    tokens_in_words: bool = False
    conversion: str = setting("direct", choices=CONVERSIONS)


class HiMTok(InternVLMethod):
    name: ClassVar[str] = "himtok"
    stages: ClassVar[tuple[str, ...]] = ("tokenizer", "align", "tune")

    def __init__(
        self, backbone: Backbone | None, tokenizer: Any, options: Options, codec: MaskTokenizer,
        hierarchy: HierarchyConfig, decode: str = "soft", templates: Templates | None = None,
        stopping: Stopping | None = None, tokens_in_words: bool = False, conversion: str = "direct",
    ):  # fmt: skip
        """decode, stopping: how answers are written. templates: wordings. tokens_in_words: a requested number of mask
        tokens is also said in the request, for models that were trained on such requests. conversion: how a mask comes
        to the picture's size, "direct" (bilinear) or "released" (its nearest neighbours)."""
        super().__init__(backbone, tokenizer, options)
        self.codec = codec
        self.hierarchy = hierarchy
        self.decode = decode
        self.templates = templates or Templates()
        self.stopping = stopping or Stopping()
        self.tokens_in_words = tokens_in_words
        self.conversion = conversion
        self._refiner: tuple[Any, ...] = ()  # in a tuple, so that it is no submodule
        self._past: list[Turn] = []  # the turns before, while a conversation is held
        self.keeper: dict[str, int] = {}  # settings of stage 1's CodebookKeeper
        self.stop = LearnedStop()  # of training; `stopping` is what ends an answer
        self.augmentation = "none"  # of stage 1's masks; see methods/augment.py
        self.balance = "tokens"  # what counts alike in a block's cross-entropy; see BALANCES
        if backbone is not None:
            self.start_id, self.end_id = token_id(tokenizer, START), token_id(tokenizer, END)
            self.low = token_id(tokenizer, code_token(0))

    # ---- building, files ------------------------------------------------------------------------------------

    @classmethod
    def build(cls, parts: Mapping[str, Any], corpus: Callable[[], Iterable[str]]) -> HiMTok:
        """parts: `start` (folder of a HiMTok model to go on with; with a `tokenizer`, with that codec); or `backbone`
        (folder of an InternVL model; left out in stage 1), `codec` (sizes) or `tokenizer` (folder of a stage-1 model),
        `init` of the mask tokens' rows ("mean" as released, or "codes"), `seed`. With both, `hierarchy`, `keeper`
        (settings of CodebookKeeper), `augmentation` of stage 1's masks ("none" or "shapes"), `balance` of a block's
        cross-entropy ("tokens" or "octaves"), `stop` (fields of LearnedStop: blocks that end early in training),
        `stopping` (fields of Stopping: what ends an answer's mask), and how it speaks: `options` (fields of Options),
        `templates` ("own", "short", "released" or a file), `tokens_in_words`; `conversion` ("direct" or "released") of
        its masks to the picture's size."""
        method = cls._started(parts) if "start" in parts else cls._fresh(parts)
        method.keeper = dict(parts.get("keeper", {}))
        method.stop = made(LearnedStop, parts.get("stop", {}), "stop")
        method.stopping = made(Stopping, asdict(method.stopping) | dict(parts.get("stopping", {})), "stopping")
        method.augmentation = check_augmentation(str(parts.get("augmentation", "none")))
        method.conversion = str(parts.get("conversion", method.conversion))
        if method.conversion not in CONVERSIONS:
            raise UserError(f"HiMTok has no conversion {method.conversion!r}; choose {' or '.join(CONVERSIONS)}.")
        method.balance = str(parts.get("balance", "tokens"))
        if method.balance not in BALANCES:
            raise UserError(f"There is no balance {method.balance!r} for HiMTok; choose {' or '.join(BALANCES)}.")
        return method

    @classmethod
    def _started(cls, parts: Mapping[str, Any]) -> HiMTok:
        check_parts(parts, f"start {BOTH}", "HiMTok model to go on with")
        method = cls.from_pretrained(Path(parts["start"]))
        if "tokenizer" in parts:
            codec = cls.from_pretrained(Path(parts["tokenizer"])).codec
            if (codec.size, codec.length) != (method.codec.size, method.codec.length):
                sizes = f"{codec.length} tokens of {codec.size} codes, not {method.codec.length} of {method.codec.size}"
                raise UserError(f"{parts['tokenizer']}: has {sizes}, as the model does; take another tokenizer.")
            method.codec = codec
        hierarchy = asdict(method.hierarchy) | dict(parts.get("hierarchy", {}))
        method.hierarchy = made(HierarchyConfig, hierarchy, "hierarchy")
        method.templates = Templates(parts["templates"]) if "templates" in parts else method.templates
        method.tokens_in_words = bool(parts.get("tokens_in_words", method.tokens_in_words))
        method.choose(parts.get("options", {}))
        return method

    @classmethod
    def _fresh(cls, parts: Mapping[str, Any]) -> HiMTok:
        check_parts(parts, f"backbone vocabulary texts codec init {BOTH}", "new HiMTok model")
        seed = int(parts.get("seed", 0))
        torch.manual_seed(seed)
        if "tokenizer" in parts:
            codec = cls.from_pretrained(Path(parts["tokenizer"])).codec
        else:
            codec = MaskTokenizer(made(CodecConfig, parts.get("codec", {}), "codec"))
            codec.initialise_from_scratch()
        hierarchy = made(HierarchyConfig, parts.get("hierarchy", {}), "hierarchy")
        if "backbone" not in parts:
            return cls(None, None, Options(box_scale=BOX_SCALE), codec, hierarchy)
        base = cls.base(parts)
        known = len(base.tokenizer)
        add_tokens(base.tokenizer, [START, END, *(code_token(i) for i in range(codec.size))])
        base.backbone.resize_vocabulary(len(base.tokenizer), seed, known)
        base.choose({"box_scale": BOX_SCALE} | dict(parts.get("options", {})))
        templates, in_words = Templates(parts.get("templates", "own")), bool(parts.get("tokens_in_words", False))
        method = cls(
            base.backbone, base.tokenizer, base.options, codec, hierarchy, templates=templates, tokens_in_words=in_words
        )
        method.initialise(str(parts.get("init", "mean")), seed)
        return method

    @torch.no_grad()
    def initialise(self, init: str, seed: int) -> None:
        """Start values of the mask tokens' rows: "mean", as every new token gets them, or "codes", a random projection
        of the code vectors, so that codes which mean nearly the same begin nearly alike (ours)."""
        if init not in ("mean", "codes"):
            raise UserError(f"There is no start called {init!r} for HiMTok; choose mean or codes.")
        if init == "mean":
            return
        codes = F.normalize(self.codec.quantize.table(), dim=-1)
        generator = torch.Generator("cpu").manual_seed(seed)
        for table in (self.backbone.language_model.embed_tokens.weight, self.backbone.native.lm_head.weight):
            old, size = table[: self.start_id].float(), (codes.shape[1], table.shape[1])
            projection = torch.randn(size, generator=generator, device="cpu", dtype=torch.float32).to(codes)
            table[self.low : self.low + self.codec.size] = old.mean(0) + old.std(0) * (codes @ projection)

    def config(self) -> dict[str, Any]:
        return checkpoint.describe(self) | {
            "codec": asdict(self.codec.config),
            "hierarchy": asdict(self.hierarchy),
            "decode": self.decode,
            "templates": self.templates.source,
            "stopping": asdict(self.stopping),
            "tokens_in_words": self.tokens_in_words,
            "conversion": self.conversion,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> HiMTok:
        backbone, tokenizer = checkpoint.empty_backbone(config, folder)
        codec = MaskTokenizer(checkpoint.part(config, "codec", CodecConfig, folder))
        hierarchy = checkpoint.part(config, "hierarchy", HierarchyConfig, folder)
        stopping = checkpoint.part(config, "stopping", Stopping, folder, needed=False)
        speech = checkpoint.choices(config, Speech, folder)
        return cls(
            backbone, tokenizer, checkpoint.options(config, Options, folder), codec, hierarchy, speech.decode,
            Templates(speech.templates), stopping, speech.tokens_in_words, speech.conversion,
        )  # fmt: skip

    # ---- training -------------------------------------------------------------------------------------------

    def enter_stage(self, stage: str) -> None:
        super().enter_stage(stage)
        if stage == "tokenizer":
            self.heads = self.heads or made(CodebookKeeper, self.keeper, "keeper", self.codec)
            return
        self.codec.requires_grad_(stage == "align")
        for part in (self.codec.encoder, self.codec.quantize):
            part.requires_grad_(False)
        self.codec.latent_tokens.requires_grad_(False)

    def codec_view(self, example: Example) -> np.ndarray:
        """As released: 8-bit grey, bicubic, aspect ratio not kept, soft edges stay."""
        where = f"{example.dataset} sample {example.ref_id}"
        if example.mask is None:
            raise UserError(f"{where}: the task needs a mask; use other data.")
        return squashed(example.mask, self.codec.resolution, where)

    def conversation(self, example: Example, task: str, size: tuple[int, int], rng: np.random.Generator) -> list[Turn]:
        if task not in tasks.TASKS:
            return super().conversation(example, task, size, rng)
        where = f"{example.dataset} sample {example.ref_id}: an option"
        self.chat.check(example.facts.get("options", ()), where)
        scale, tokens = self.options.box_scale, self.codec.length
        return tasks.converse(example, task, self.templates, size, scale, tokens, self._with_picture, rng)

    def _with_picture(self, request: str) -> str:
        return shared.with_image(request, self.options.image_first)

    def mask_block(self) -> list[int]:
        return [self.start_id, *([self.low] * self.codec.length), self.end_id]

    def prepare(self, example: Example, task: str, rng: np.random.Generator) -> TrainingSample:
        if self.stage == "tokenizer":
            return TrainingSample([], [], masks=[self.codec_view(example)])
        sample = super().prepare(example, task, rng)
        while len(sample.masks) < sample.ids.count(self.start_id):  # blocks of a requested length are spelled out
            sample.masks.append(self.codec_view(example))
        return sample

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        if self.stage == "tokenizer":
            return tokenizer_loss(self.codec, self.heads, augmented(batch["masks"], self.augmentation), dice=1.0)
        blocks = self._fill(batch)
        hidden, _ = self.hidden_states(batch)
        each, target = self.token_losses(hidden, batch["labels"])
        weight = self._weights(batch["labels"], blocks)
        losses = {"text": (each * weight).sum() / weight.sum()}
        code = target >= self.low
        if code.any():
            losses["_codes"] = each[code].mean().detach()
        if self.stage == "align":
            masked = self._mask_losses(hidden, batch, blocks)
            losses["text"] = losses["text"] + masked.pop("idle")
            losses |= masked
        return losses

    def _weights(self, labels: Tensor, blocks: Blocks | None) -> Tensor:
        """What each learned token of labels [B, L] counts, float [K]: 1, or within a block its share of the block's."""
        weights = torch.ones(labels.shape, device=labels.device)
        if self.balance == "octaves" and blocks is not None:
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
        codes = self.codec.encode(batch["masks"])
        if self.stop.share:
            cut_answers(batch, codes, self.codec, self.start_id, self.end_id, self.stop)
        return fill_codes(batch["ids"], batch["labels"], self.start_id, self.end_id, self.low + codes)

    def _mask_losses(self, hidden: Tensor, batch: dict[str, Any], blocks: Blocks | None) -> dict[str, Tensor]:
        """Soft codes of the blocks that are answers, decoded and compared with their masks.

        A block of fewer tokens than the codec's has one loss, "prefix", with the mask as sharp as the hierarchical loss
        wants it at that length. Every batch uses the same modules in the same order, or ZeRO's processes would get
        stuck: a kind of block that it lacks has the loss of some state and no mask, and "idle" is 0 times those.
        """
        side = self.codec.resolution
        states, masks = hidden[:1, -1:].expand(-1, self.codec.length, -1), hidden.new_zeros(1, side, side).float()
        counts, spare = batch["ids"].new_ones(1), batch["ids"].new_ones(1, dtype=torch.bool)
        if blocks is not None:
            rows, columns, written = blocks
            answers = batch["labels"][rows, columns[:, :1]][:, 0] != IGNORED
            states = torch.cat([hidden[rows[answers], columns[answers] - 1], states])  # the one before predicts a token
            masks, counts = torch.cat([batch["masks"][answers, 0], masks]), torch.cat([written[answers], counts])
            spare = torch.cat([torch.zeros_like(counts[1:], dtype=torch.bool), spare])
        logits = self.backbone.head(states, self.low, self.low + self.codec.size).float()
        probabilities = (logits / self.hierarchy.temperature).softmax(-1)
        whole = (counts == self.codec.length) & ~spare
        short = ~whole & ~spare
        some = whole if whole.any() else spare
        losses = hierarchical_loss(self.codec, probabilities[some], masks[some], self.hierarchy)
        used = dict.fromkeys(losses, whole.any()) | {"prefix": short.any()}
        some = short if short.any() else spare
        codes, kept, target = self.codec.mix(probabilities[some]), counts[some], masks[some]
        if self.hierarchy.variant != "off":
            target = blurred(target, kept, self.codec.length)
        losses["prefix"] = mask_loss(self.codec.logits(codes, kept), target, self.hierarchy.dice)
        idle = 0 * sum(loss for name, loss in losses.items() if not used[name])
        return {name: loss for name, loss in losses.items() if used[name]} | {"idle": idle}

    # ---- answering ------------------------------------------------------------------------------------------

    def questions(self, request: Request) -> list[tuple[tuple[str, ...], str]]:
        return [(request.want, self._question(request))]

    def _question(self, request: Request) -> str:
        family = tasks.family_of(request, self.tokens_in_words, bool(self._past))
        if not request.expressions and tasks.SLOTS[family][0] & {"phrase", "options"}:
            raise UserError("A request has no expression; say what to segment.")
        listed = request.joined and self.templates.source == "released"  # as the released evaluation does
        slots: dict[str, Any] = {"mask": MASK, "n": request.tokens} | tasks.phrases(request.expressions, listed)
        if family in ("choose", "choose_several"):
            slots["options"] = tasks.write_options(request.expressions, "The request")
        if request.box is not None or request.points:
            size = open_image(request.image).size
            slots["points"] = tasks.write_points(request.points, *size, self.options.box_scale)
            if request.box is not None:
                slots["box"] = shared.write_box(request.box, *size, self.options.box_scale)
        return self.templates.request(family, **slots)

    def _prompt(self, text: str, tiles: int, request: Request) -> list[int]:
        """What was said before and the question, a given mask spelled out."""
        first, *later = [*self._past, Turn("user", self._spelled(text, request))]
        turns = [Turn(first.role, self._with_picture(first.text)), *later]
        return self.chat.encode(turns, tiles, reply=True)[0]

    def _spelled(self, text: str, request: Request) -> str:
        """The question with the codes of the request's mask in place of `<mask>`."""
        if request.mask is None:
            return text
        view = squashed(request.mask, self.codec.resolution, "The mask of the request")
        size = open_image(request.image).size
        if request.mask.shape[::-1] != size:
            wrong = "x".join(map(str, request.mask.shape[::-1]))
            raise UserError(f"The mask of the request is {wrong} pixels, its picture {size[0]}x{size[1]}; resize it.")
        ids = self.codec.encode(torch.from_numpy(view).to(self.device)[None, None])[0]
        return text.replace(MASK, tasks.spelled_out(ids.tolist()))

    @torch.inference_mode()
    def converse(self, requests: Sequence[Request]) -> list[Prediction]:
        """Answer requests about one picture as the turns of one conversation.

        What was said before, masks included, stays in the prompt. A later request without expressions asks for the
        mask or the box of what was spoken of.
        """
        predictions: list[Prediction] = []
        try:
            for request in requests:
                if request.image != requests[0].image:
                    raise UserError(
                        "The turns of a conversation are about one picture; start another one for the next."
                    )
                prediction = self.segment([request])[0]
                answer = prediction.text.replace(MASK, tasks.spelled_out(prediction.token_ids))
                question = self._spelled(self._question(request), request)
                self._past += [Turn("user", question), Turn("assistant", answer)]
                predictions.append(prediction)
        finally:
            self._past = []
        return predictions

    def use_refiner(self, folder: Path | None) -> None:
        """From now on the SAM in a folder sharpens every mask (see refine.py); None ends it. It is no part of the
        model's own weights."""
        from methods.himtok.refine import Refiner  # here, because it loads transformers' SAM

        self._refiner = () if folder is None else (Refiner.from_pretrained(folder).to(self.device),)

    @torch.inference_mode()
    def segment(self, requests: Sequence[Request]) -> list[Prediction]:
        predictions = super().segment(requests)
        for refiner in self._refiner:
            for request, prediction in zip(requests, predictions, strict=True):
                clock = Clock(self.device, self.decoding)
                with clock.stage("refine"):
                    refiner.refine(request.image, [prediction])
                prediction.seconds |= clock.seconds
        return predictions

    def _segment(self, requests: Sequence[Request], tokens: int | None) -> list[Prediction]:
        """Where each mask finds its own length, requests are answered one by one."""
        if self.stopping.rule == "full":
            return super()._segment(requests, tokens)
        return [prediction for request in requests for prediction in super(HiMTok, self)._segment([request], tokens)]

    def full_mask(self, probabilities: Tensor, size: tuple[int, int]) -> np.ndarray:
        """The released evaluation takes the nearest probability for each pixel, which the boundary of a small object
        shows: with 256 pixels a side no mask of less than 1 % of the picture can then reach more than some .92 IoU."""
        if self.conversion == "direct":
            return super().full_mask(probabilities, size)
        full = F.interpolate(probabilities.float()[None, None], tuple(size), mode="nearest-exact")
        return (full[0, 0] > 0.5).cpu().numpy()

    def expected(self, request: Request, want: tuple[str, ...]) -> str | None:
        family = tasks.family_of(request, self.tokens_in_words, bool(self._past))
        text = self.templates.families[family].answers[0].replace("{mask}", MASK)
        return text if MASK in text.partition("{")[0] else None

    @property
    def text_rows(self) -> int:
        return self.low

    def block(self, tokens: int | None) -> Block:
        obeys = self.tokens_in_words and self.stopping.rule == "written"  # the number is asked for, not enforced
        count = self.codec.length if tokens is None or obeys else tokens
        if not 1 <= count <= self.codec.length:
            raise UserError(f"A HiMTok mask has 1 to {self.codec.length} tokens, not {count}; ask for fewer.")

        expected = self.decoding.rule == "expected"
        temperature = self.decoding.temperature if expected else self.hierarchy.temperature
        soft = expected or (self.decode == "soft" and self.decoding.rule != "hard")

        def schedule() -> TokenByToken:
            return TokenByToken(
                self.backbone, self.codec, self.low, self.start_id, self.end_id, count, temperature, soft,
                self.stopping, expected,
            )  # fmt: skip

        return Block(self.start_id, schedule)

    def length_curve(self, examples: Sequence[Example], tolerances: Sequence[float], every: int = 4) -> list[Spent]:
        """Tokens spent against IoU lost when writing stops as soon as the mask has settled; see settling.py."""
        return length_curve(self, examples, tolerances, every)


class Blocks(NamedTuple):
    """Where the codes of M blocks stand in a batch: rows [M, 1], columns [M, T] (a short block repeats its last one)
    and how many each block has, counts [M]."""

    rows: Tensor
    columns: Tensor
    counts: Tensor


def fill_codes(ids: Tensor, labels: Tensor, start_id: int, end_id: int, codes: Tensor) -> Blocks:
    """Write codes [M, T] (as vocabulary ids) between each start and end token of ids [B, L], in place and in reading
    order; of a block with fewer places the first codes. Labels are overwritten only where they are learned."""
    rows, starts = (ids == start_id).nonzero(as_tuple=True)
    ends = (ids == end_id).nonzero(as_tuple=True)[1]
    places = torch.arange(codes.shape[1], device=ids.device)
    written = places < (ends - starts - 1)[:, None]
    rows, columns = rows[:, None], torch.minimum(starts[:, None] + 1 + places, ends[:, None] - 1)
    where = rows.expand_as(columns)[written], columns[written]
    ids[where] = codes[written]
    labels[where] = torch.where(labels[where] != IGNORED, codes[written], IGNORED)
    return Blocks(rows, columns, written.sum(1))
