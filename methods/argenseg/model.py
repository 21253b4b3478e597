"""ARGenSeg on InternVL2.5: vocabulary, joint training, and answers.

Stage "tokenizer" trains the stand-in for the general picture tokenizer; "joint" trains projector and language model
on the sum of a text and a visual cross-entropy, with the vision tower and the tokenizer frozen.

A mask is `<ge_start>`, 679 placeholders and `<ge_end>`, as `layout.py` says; `<ge_end>` is never a target: it is
forced. Slot j is fed the sum of all earlier scales, shrunk to its own scale and projected, plus a level and a position
embedding; no visual token has an input embedding. `form.py` lists the variants.

Shapes: B rows, L tokens, D width, M masks, T = 680 visual tokens, n slots, C code width, G side of the feature map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from methods.argenseg import prompts as tasks
from methods.argenseg.form import Form
from methods.argenseg.layout import scale_mask, slots_by_length, write_labels
from methods.argenseg.mask_tokenizer import VQVAE, CodecConfig
from methods.argenseg.masks import picture_of, released_grey, to_bytes, truncated
from methods.argenseg.prefix import Prefix
from methods.argenseg.schedule import Guided, HiddenMap, ScaleByScale, TokenByToken
from methods.argenseg.token_cache import TokenCache
from methods.argenseg.tokenizer_training import (
    PictureHeads,
    picture_batch,
    picture_sample,
    random_crop,
    tokenizer_loss,
    with_augmented_masks,
)
from methods.augment import check_augmentation
from methods.base import Example, Prediction, Request, TrainingSample, UserError, open_image
from methods.internvl import checkpoint
from methods.internvl import prompts as shared
from methods.internvl.backbone import Backbone
from methods.internvl.chat import IGNORED, Turn
from methods.internvl.generation.engine import Answer, Block, Decoder
from methods.internvl.method import InternVLMethod, Options, check_parts, made
from methods.internvl.positions import grid_positions
from methods.internvl.vocabulary import add_tokens, token_id

PLACEHOLDER, START, END, CONTEXT = "<mask>", "<ge_start>", "<ge_end>", "<MASK_CONTEXT>"
FIRST_VISUAL = "<visual token 000000>"
# Of the visual cross-entropy: every token alike (the paper), or every scale alike (ours). The 14 tokens of the first
# three scales weigh 2 % among 680; the second gives them more say. The two were not compared.
BALANCES = ("tokens", "scales")
# parts of new and of started models
BOTH = "keeper perceptual adversarial augmentation balance prefix options form token_cache"


class ARGenSeg(InternVLMethod):
    name: ClassVar[str] = "argenseg"
    stages: ClassVar[tuple[str, ...]] = ("tokenizer", "joint")

    def __init__(
        self, backbone: Backbone | None, tokenizer: Any, options: Options, codec: VQVAE, form: Form | None = None
    ):
        super().__init__(backbone, tokenizer, options)
        self.codec = codec
        self.form = form or Form()
        self.head_settings: dict[str, Any] = {}  # of the tokenizer stage's PictureHeads
        self.augmentation = "none"  # of the tokenizer stage's masks; see methods/augment.py
        self.prefix = Prefix()
        self.balance = "tokens"  # what counts alike in the visual loss; see BALANCES
        self.cache: TokenCache | None = None
        if backbone is None:
            return
        self.start_id, self.end_id = token_id(tokenizer, START), token_id(tokenizer, END)
        self.context_id = token_id(tokenizer, CONTEXT)
        # visual ids follow the text vocabulary and stand in no text; the released tokenizer has strings for them
        self.low = tokenizer.get_vocab().get(FIRST_VISUAL, len(tokenizer))
        hidden = self.form.head == "hidden"
        self.visual_rows = codec.config.code_width if hidden else codec.size
        lengths = (codec.quantize.grid**2,) if hidden else codec.quantize.lengths
        self.slots = sum(lengths)
        self.word_embed = nn.Linear(codec.config.code_width, backbone.width)
        self.lvl_embed = nn.Embedding(len(lengths), backbone.width)
        self.pos_1LC = nn.Parameter(torch.zeros(1, self.slots, backbone.width))
        levels = [level for level, length in enumerate(lengths) for _ in range(length)]
        self.register_buffer("level_of_slot", torch.tensor(levels), persistent=False)

    # ---- building, files ------------------------------------------------------------------------------------

    @classmethod
    def build(cls, parts: Mapping[str, Any], corpus: Callable[[], Iterable[str]]) -> ARGenSeg:
        """parts: `start` (folder of an ARGenSeg model to go on with); or `backbone` (folder of an InternVL model; left
        out in the tokenizer's stage), `codec` (sizes) or `tokenizer` (folder of that stage), `init` ("zeros" as
        released, "var" or "grid"), `seed`. With both, `keeper`, `perceptual` and `adversarial` (settings of
        PictureHeads), `augmentation` of that stage's masks ("none" or "shapes"), `balance` (of the visual loss),
        `prefix` (fields of Prefix: samples that are trained on the first scales only), `options` (fields of Options),
        `form` (fields of Form; not `head` for a started model) and `token_cache` (folder in which the masks' ids are
        kept)."""
        form = dict(parts.get("form", {}))
        if "start" in parts:
            check_parts(parts, f"start {BOTH}", "ARGenSeg model to go on with")
            method = cls.from_pretrained(Path(parts["start"]))
            if form.get("head", method.form.head) != method.form.head:
                raise UserError(f"{parts['start']}: has the head {method.form.head!r}; train another one anew.")
            method.form = made(Form, asdict(method.form) | form, "form")
        else:
            check_parts(parts, f"backbone vocabulary texts codec tokenizer init {BOTH}", "new ARGenSeg model")
            method = cls._fresh(parts, made(Form, form, "form"))
        method.head_settings = {key: parts.get(key) for key in ("keeper", "perceptual", "adversarial")}
        method.augmentation = check_augmentation(str(parts.get("augmentation", "none")))
        method.prefix = made(Prefix, parts.get("prefix", {}), "prefix")
        method.prefix.check(len(method.codec.prefixes), method.form)
        method.choose(parts.get("options", {}))
        method.balance = str(parts.get("balance", "tokens"))
        if method.balance not in BALANCES:
            raise UserError(f"There is no balance {method.balance!r} for ARGenSeg; choose {' or '.join(BALANCES)}.")
        if "token_cache" in parts:
            method.cache = TokenCache(Path(parts["token_cache"]), method.codec)
        return method

    @classmethod
    def _fresh(cls, parts: Mapping[str, Any], form: Form) -> ARGenSeg:
        seed = int(parts.get("seed", 0))
        torch.manual_seed(seed)
        if "tokenizer" in parts:
            codec = cls.from_pretrained(Path(parts["tokenizer"])).codec
        else:
            codec = VQVAE(made(CodecConfig, parts.get("codec", {}), "codec"))
        if "backbone" not in parts:
            return cls(None, None, Options(), codec, form)
        base = cls.base(parts)
        known = len(base.tokenizer)
        add_tokens(base.tokenizer, [PLACEHOLDER, START, END, CONTEXT])
        method = cls(base.backbone, base.tokenizer, base.options, codec, form)
        base.backbone.resize_vocabulary(len(base.tokenizer) + method.visual_rows, seed, known)
        method.initialise(str(parts.get("init", "zeros")))
        return method

    @torch.no_grad()
    def initialise(self, init: str) -> None:
        """Start values of the slot inputs: "zeros" (the release), "var", small normals like VAR's own, or "grid", the
        same with positions that say where in the picture a slot lies, alike at every scale."""
        if init not in ("zeros", "var", "grid"):
            raise UserError(f"There is no start called {init!r} for ARGenSeg; choose zeros, var or grid.")
        width, scales = self.backbone.width, self.codec.quantize.scales
        scales = scales[-1:] if self.form.head == "hidden" else scales
        deviation = 0.0 if init == "zeros" else (1 / width / 3) ** 0.5
        for parameter in (self.word_embed.weight, self.word_embed.bias, self.lvl_embed.weight, self.pos_1LC):
            parameter.normal_(0, deviation) if deviation else parameter.zero_()
        if init == "grid":
            places = [grid_positions(side, width, scales[-1]) for side in scales]
            self.pos_1LC[0] = 2 * deviation * torch.cat(places)
        if self.form.head == "hidden":  # equal rows, as new tokens get, would stay equal
            self.backbone.native.lm_head.weight[self.low :].normal_(0, self.backbone.width**-0.5)

    def config(self) -> dict[str, Any]:
        return checkpoint.describe(self) | {"codec": asdict(self.codec.config), "form": asdict(self.form)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> ARGenSeg:
        backbone, tokenizer = checkpoint.empty_backbone(config, folder)
        codec = VQVAE(checkpoint.part(config, "codec", CodecConfig, folder))
        form = checkpoint.part(config, "form", Form, folder, needed=False)
        return cls(backbone, tokenizer, checkpoint.options(config, Options, folder), codec, form)

    # ---- training -------------------------------------------------------------------------------------------

    def enter_stage(self, stage: str) -> None:
        super().enter_stage(stage)
        if stage == "tokenizer":
            self.heads = self.heads or PictureHeads(self.codec, **self.head_settings)
        else:
            self.codec.requires_grad_(False)
            self.backbone.vision_tower.requires_grad_(False)

    def codec_view(self, example: Example) -> np.ndarray:
        """White on black, squashed to a square; an empty mask (no target) is a black picture."""
        if example.mask is None:
            raise UserError(f"{example.dataset} sample {example.ref_id}: the task needs a mask; use other data.")
        if example.mask.dtype != np.bool_ or example.mask.ndim != 2 or not example.mask.size:
            found = f"{example.mask.dtype} {list(example.mask.shape)}"
            raise UserError(
                f"{example.dataset} sample {example.ref_id}: the mask is {found}, but must be bool [height, width]; "
                "compare with > 0 first."
            )
        grey = Image.fromarray(example.mask.astype(np.uint8) * 255)
        picture = picture_of(grey, self.codec.resolution, self.form.conversion)
        return np.asarray(picture, np.float32) / 255

    def conversation(self, example: Example, task: str, size: tuple[int, int], rng: np.random.Generator) -> list[Turn]:
        if task != "segment":
            return super().conversation(example, task, size, rng)
        request = tasks.segment_request(example.expressions, self.form.wording, evaluation=False)
        answer = Turn("assistant", tasks.SEGMENT_ANSWER)
        return [Turn("user", shared.with_image(request, self.options.image_first)), answer]

    def mask_block(self) -> list[int]:
        return [self.start_id, *([self.context_id] * (self.slots - 1)), self.end_id]

    def prepare(self, example: Example, task: str, rng: np.random.Generator) -> TrainingSample:
        if self.stage == "tokenizer":
            mask = None if example.mask is None else self.codec_view(example)
            return picture_sample(example, mask, self.codec.resolution, rng)
        if task == "generate":
            return self._caption_sample(example, rng)
        sample = super().prepare(example, task, rng)
        return self.prefix.shortened(sample, self.start_id, self.codec.prefixes, rng)

    def _caption_sample(self, example: Example, rng: np.random.Generator) -> TrainingSample:
        """A caption (`answer`, or what the expressions say) and the picture to write, float32 [3, R, R] in 0..1."""
        caption = example.answer or ", ".join(example.expressions)
        self.chat.check([caption], f"{example.dataset} sample {example.ref_id}: the caption")
        caption = tasks.NO_PROMPT if rng.random() < tasks.UNPROMPTED else caption
        turns = [Turn("user", caption), Turn("assistant", tasks.GENERATE_ANSWER)]
        ids, labels = self.chat.encode(turns, 0, self.mask_block())
        pixels = np.asarray(random_crop(open_image(example.image), self.codec.resolution, rng), np.float32)
        return TrainingSample(ids, labels, masks=[pixels.transpose(2, 0, 1) / 255])

    def collate(self, samples: Sequence[TrainingSample], pack: bool = False) -> dict[str, Any]:
        """As for every method, save for the tokenizer's stage; masks are [M, 3, R, R] if some are coloured pictures."""
        if self.stage == "tokenizer":
            return picture_batch(samples)
        if any(mask.ndim == 3 for sample in samples for mask in sample.masks):
            samples = [replace(s, masks=[np.broadcast_to(m, (3, *m.shape[-2:])) for m in s.masks]) for s in samples]
        batch = super().collate(samples, pack)
        if "masks" in batch and batch["masks"].ndim == 5:
            batch["masks"] = batch["masks"][:, 0]
        return batch

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        if self.stage == "tokenizer":
            pictures = with_augmented_masks(batch["pictures"], batch["drawn"], self.augmentation)
            return tokenizer_loss(self.codec, self.heads, pictures, batch["drawn"])
        blocks = slots_by_length(batch["ids"], self.start_id, self.end_id)
        mask = None
        if self.form.intra_scale == "full" and blocks:
            mask = scale_mask(batch["ids"], blocks[0].rows, blocks[0].columns, self.level_of_slot)
        hidden, _ = self.hidden_states(batch, self._fill(batch), mask)
        each, target = self.token_losses(hidden, batch["labels"])
        visual = target >= self.low
        losses = {}
        if (~visual).any():
            losses["text"] = each[~visual].mean()
        if visual.any():
            scale = torch.zeros_like(batch["labels"])
            for _, rows, columns in blocks:
                scale[rows, columns + 1] = self.level_of_slot[: columns.shape[1]].expand(len(rows), -1)
            scale = scale[:, 1:][batch["labels"][:, 1:] != IGNORED][visual]
            losses["visual"] = balanced_mean(each[visual], scale if self.balance == "scales" else None)
        if self.form.head == "hidden" and blocks:
            ((_, rows, columns),) = blocks
            logits = self.backbone.head(hidden[rows, columns], self.low)
            losses |= self.map_losses(self.feature_map(logits), batch["masks"])
        return losses

    def map_losses(self, features: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Cross-entropy and Dice of the picture drawn from [M, C, G, G] against masks [M, 1 or 3, R, R].

        The picture's -1..1 becomes a logit of -4..4: the decoder was trained to reach 1, not infinity.
        """
        logits, truth = 4 * self.codec.draw(features).float().mean(1).flatten(1), masks.mean(1).flatten(1)
        p = logits.sigmoid()
        dice = 1 - (2 * (p * truth).sum(1) + 1) / (p.sum(1) + truth.sum(1) + 1)
        return {"bce": F.binary_cross_entropy_with_logits(logits, truth), "dice": dice.mean()}

    def feature_map(self, logits: Tensor) -> Tensor:
        """The head "hidden": rows of C values [B, G * G, C] -> the decoder's input [B, C, G, G]."""
        return logits.float().transpose(1, 2).unflatten(2, (self.codec.quantize.grid, -1))

    def slot_inputs(self, cells: Tensor, start: int) -> Tensor:
        """Shrunk sums [M, n, C] of consecutive slots from `start` on -> language-model inputs [M, n, D]."""
        slots = slice(start, start + cells.shape[1])
        cells = cells.to(self.word_embed.weight.dtype)  # sums and resizes stay in float32 whatever the model's own
        return self.word_embed(cells) + self.lvl_embed(self.level_of_slot[slots]) + self.pos_1LC[0, slots]

    def blank_inputs(self, count: int) -> Tensor:
        """Inputs [count, n - 1, D] of slots that are fed nothing but their place."""
        width = self.codec.config.code_width
        return self.slot_inputs(torch.zeros(count, self.slots - 1, width, device=self.device), 1)

    def _fill(self, batch: dict[str, Any]) -> Tensor:
        """Write the masks' visual ids into the labels -> embeddings [B, L, D] with the slot inputs in place."""
        embeddings = self.backbone.embed(batch["ids"])
        blocks = slots_by_length(batch["ids"], self.start_id, self.end_id)
        if not blocks:  # every batch uses the same modules in the same order, or ZeRO's processes would get stuck
            return embeddings + 0 * self.blank_inputs(1).sum()
        for masks, rows, columns in blocks:
            if self.form.head == "hidden":
                write_labels(batch["labels"], rows, columns, IGNORED)
                inputs = self.blank_inputs(len(rows))
            else:
                ids = self.codec_ids(batch["masks"][masks])[:, : columns.shape[1]]
                write_labels(batch["labels"], rows, columns, self.low + ids)
                inputs = self.slot_inputs(self.codec.quantize.teacher_forcing(ids), 1)
            embeddings = embeddings.index_put((rows, columns[:, 1:]), inputs.to(embeddings.dtype))
        return embeddings

    def codec_ids(self, masks: Tensor) -> Tensor:
        """[M, 1 or 3, R, R] in 0..1 -> ids [M, T]; masks come from the cache, if there is one."""
        return (self.cache if self.cache and masks.shape[1] == 1 else self.codec).encode(masks)

    # ---- answering ------------------------------------------------------------------------------------------

    def questions(self, request: Request) -> list[tuple[tuple[str, ...], str]]:
        """A mask and a box are two questions: the model was taught to write one or the other."""
        self.refuse_more_than_words(request)
        asked = []
        if "mask" in request.want:
            text = tasks.segment_request(request.expressions, self.form.wording, evaluation=True)
            asked.append((("mask",), text))
        if "box" in request.want:
            phrase = shared.join_expressions(request.expressions)
            asked.append((("box",), shared.BOX_REQUESTS[0].format(phrase=phrase)))
        return asked

    def expected(self, request: Request, want: tuple[str, ...]) -> str | None:
        return tasks.SEGMENT_ANSWER if want == ("mask",) else None

    @property
    def text_rows(self) -> int:
        return self.low

    def block(self, tokens: int | None) -> Block:
        counts = list(self.codec.prefixes)
        if tokens not in (None, *counts):
            raise UserError(f"An ARGenSeg mask is made of whole scales: {counts} tokens, not {tokens}; choose one.")
        scales = counts.index(tokens or counts[-1]) + 1
        single = len(counts) == 1  # one scale can only be written token by token
        kind = TokenByToken if single or self.form.order == "token" else ScaleByScale
        kind = HiddenMap if self.form.head == "hidden" else kind
        mutual = self.form.intra_scale == "full"
        return Block(self.start_id, lambda: kind(self, scales), self.form.masks, mutual)

    def read_mask(self, answer: Answer, prediction: Prediction) -> list[str]:
        """The union of all masks of the answer."""
        if len(answer.masks) > 1:
            ids = [number for block in answer.mask_ids for number in block]
            answer = replace(answer, masks=[torch.stack(answer.masks).amax(0)], mask_ids=[ids])
        failures = super().read_mask(answer, prediction)
        if prediction.probabilities is not None and prediction.probabilities.ndim == 3:
            prediction.probabilities = prediction.probabilities.mean(0)
        return failures

    def full_mask(self, probabilities: Tensor, size: tuple[int, int]) -> np.ndarray:
        """The released conversion takes the picture in colours [3, R, R] too; from its mean, as the codec's own round
        trip gives it, levels may differ by one."""
        if self.form.conversion == "direct":
            return super().full_mask(probabilities, size)
        return released_grey(truncated(probabilities.float().expand(3, -1, -1)), size) > 127

    @torch.inference_mode()
    def generate(
        self,
        captions: Sequence[str],
        guidance: float = 4.0,
        top_k: int = 0,
        top_p: float = 0.0,
        seed: int | None = None,
    ) -> list[Image.Image]:
        """A picture [R, R] for each caption, by classifier-free guidance (0 for none).

        Without a seed the likeliest tokens are taken, else tokens are drawn among the likeliest `top_k` that hold
        the mass `top_p` (VAR: guidance 4, 900, 0.96). The model must have been trained on the task "generate".
        """
        if self.form.head == "hidden" or len(self.codec.prefixes) == 1:
            raise UserError("Pictures are written as tokens of several scales; choose a model of that form.")
        if not captions:
            return []
        self.chat.check(captions, "The caption")
        prefix = self.tokenizer.encode(tasks.GENERATE_PREFIX, add_special_tokens=False)
        texts = [*captions, *[tasks.NO_PROMPT] * len(captions)]
        prompts = [self.chat.encode([Turn("user", text)], 0, reply=True)[0] + prefix for text in texts]
        nothing = torch.zeros(0, self.backbone.width, device=self.device)
        state = Decoder(self.backbone, *self._left_padded(prompts, [nothing]))
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)
        schedule = Guided(self, guidance, top_k, top_p, generator)
        everyone = torch.ones(len(texts), dtype=torch.bool, device=self.device)
        state.write(schedule, everyone, self.form.intra_scale == "full")
        return [Image.fromarray(to_bytes(p)) for p in self.codec.draw(schedule.features[: len(captions)])]


def balanced_mean(losses: Tensor, group: Tensor | None) -> Tensor:
    """Mean of losses [K], or with their groups [K] the mean over groups of each group's mean."""
    if group is None:
        return losses.mean()
    _, member, count = group.unique(return_inverse=True, return_counts=True)
    return (losses / count[member]).sum() / len(count)
