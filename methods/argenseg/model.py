"""ARGenSeg on InternVL2.5: mask vocabulary, joint training, and answers.

Stage "joint" trains projector and language model on the sum of a text and a visual cross-entropy, with the vision tower
and the image tokenizer frozen.

A mask is `<ge_start>`, 679 placeholders and `<ge_end>`, as `layout.py` says; `<ge_end>` is never a target: it is
forced. Slot j is fed the sum of all earlier scales, shrunk to its own scale and projected, plus a level and a position
embedding; no visual token has an input embedding. `config.Variant` lists the variants.

Shapes: B rows, L tokens, D width, M masks, T = 680 visual tokens, n slots, C code width, G side of the feature map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from PIL import Image
from torch import Tensor, nn

from methods.argenseg import prompts
from methods.argenseg.config import INITS, MaskTokenizerConfig, ModelStage, Variant
from methods.argenseg.layout import scale_mask, slots_by_length, write_labels
from methods.argenseg.mask_tokenizer import VQVAE
from methods.argenseg.masks import to_bytes
from methods.argenseg.prefix import Prefix
from methods.argenseg.processor import CONTEXT, END, PLACEHOLDER, START, ARGenSegProcessor
from methods.argenseg.schedule import Guided, HiddenMap, ScaleByScale, TokenByToken
from methods.argenseg.token_cache import TokenCache
from methods.argenseg.tokenizer_training import ImageTokenizerTraining
from methods.base import USUAL_OPTIONS, Decoding, Prediction, RequestOptions, UserError
from methods.common.masks import mask_losses
from methods.internvl import checkpoint
from methods.internvl.backbone import Backbone
from methods.internvl.chat import IGNORED, Turn
from methods.internvl.config import ProcessorConfig
from methods.internvl.generation.engine import Answer, Block, Decoder
from methods.internvl.model import InternVLModel, changed, made
from methods.internvl.positions import grid_positions
from methods.internvl.vocabulary import add_tokens


class ARGenSeg(InternVLModel):
    name: ClassVar[str] = "argenseg"
    stages: ClassVar[tuple[str, ...]] = ("joint",)

    def __init__(self, backbone: Backbone, processor: ARGenSegProcessor, mask_tokenizer: VQVAE):
        super().__init__(backbone, processor)
        self.mask_tokenizer = mask_tokenizer
        self.token_loss_weighting = "tokens"
        self.cache: TokenCache | None = None
        sizes, lengths = mask_tokenizer.config, processor.lengths
        self.visual_rows = sizes.code_width if self.variant.head == "hidden" else mask_tokenizer.size
        self.slots = processor.slots
        self.word_embed = nn.Linear(sizes.code_width, backbone.width)
        self.lvl_embed = nn.Embedding(len(lengths), backbone.width)
        self.pos_1LC = nn.Parameter(torch.zeros(1, self.slots, backbone.width))
        levels = [level for level, length in enumerate(lengths) for _ in range(length)]
        self.register_buffer("level_of_slot", torch.tensor(levels), persistent=False)

    @property
    def variant(self) -> Variant:
        return self.processor.variant

    # ---- building, files ------------------------------------------------------------------------------------

    @classmethod
    def build(cls, config: Mapping[str, Any], corpus: Callable[[], Iterable[str]]) -> Self:
        """See config.ModelStage."""
        made(ModelStage, config)
        model = cls._continued(config) if "start" in config else cls._fresh(config)
        model.backbone.drop_path(float(config.get("drop_path", 0)))
        model.token_loss_weighting = str(config.get("token_loss_weighting", "tokens"))
        prefix = made(Prefix, config.get("prefix", {}), "prefix")
        prefix.check(len(model.mask_tokenizer.prefixes), model.variant)
        model.processor.prefix = prefix
        if "token_cache" in config:
            model.cache = TokenCache(Path(config["token_cache"]), model.mask_tokenizer)
        return model

    @classmethod
    def _continued(cls, config: Mapping[str, Any]) -> Self:
        model = cls.from_pretrained(Path(config["start"]))
        variant = dict(config.get("variant", {}))
        if variant.get("head", model.variant.head) != model.variant.head:
            raise UserError(f"{config['start']}: has the head {model.variant.head!r}; train another from scratch.")
        old, masks = model.processor, model.mask_tokenizer
        masks.config = replace(masks.config, mask_resize=str(config.get("mask_resize", masks.config.mask_resize)))
        own = changed(old.config, config.get("processor", {}))
        variant = made(Variant, asdict(model.variant) | variant, "variant")
        model.processor = ARGenSegProcessor(old.tokenizer, old.size, own, masks.config, variant)
        return model

    @classmethod
    def _fresh(cls, config: Mapping[str, Any]) -> Self:
        seed = int(config.get("seed", 0))
        torch.manual_seed(seed)
        if "mask_tokenizer" in config:
            masks = ImageTokenizerTraining.load(Path(config["mask_tokenizer"]))
        else:
            sizes = config.get("mask_tokenizer_config", {})
            masks = VQVAE(made(MaskTokenizerConfig, sizes, "mask_tokenizer_config"))
        masks.config = replace(masks.config, mask_resize=str(config.get("mask_resize", masks.config.mask_resize)))
        start = cls.start_from(config)
        known = len(start.tokenizer)
        add_tokens(start.tokenizer, [PLACEHOLDER, START, END, CONTEXT])
        own, variant = changed(start.config, config.get("processor", {})), config.get("variant", {})
        processor = ARGenSegProcessor(
            start.tokenizer, start.backbone.size, own, masks.config, made(Variant, variant, "variant")
        )
        model = cls(start.backbone, processor, masks)
        start.backbone.resize_vocabulary(len(start.tokenizer) + model.visual_rows, seed, known)
        model.initialise(str(config.get("init", "zeros")))
        return model

    @torch.no_grad()
    def initialise(self, init: str) -> None:
        """Start values of the slot inputs: "zeros" (the release), "var", small normals like VAR's own, or "grid", the
        same with positions that say where in the image a slot lies, alike at every scale."""
        if init not in INITS:
            raise UserError(f"There is no init {init!r} for ARGenSeg; choose zeros, var or grid.")
        width, scales = self.backbone.width, self.mask_tokenizer.quantize.scales
        scales = scales[-1:] if self.variant.head == "hidden" else scales
        deviation = 0.0 if init == "zeros" else (1 / width / 3) ** 0.5
        for parameter in (self.word_embed.weight, self.word_embed.bias, self.lvl_embed.weight, self.pos_1LC):
            parameter.normal_(0, deviation) if deviation else parameter.zero_()
        if init == "grid":
            places = [grid_positions(side, width, scales[-1]) for side in scales]
            self.pos_1LC[0] = 2 * deviation * torch.cat(places)
        if self.variant.head == "hidden":  # equal rows, as new tokens get, would stay equal
            rows = self.backbone.native.lm_head.weight[self.processor.mask_token_offset :]
            rows.normal_(0, self.backbone.width**-0.5)

    def config(self) -> dict[str, Any]:
        own = {"mask_tokenizer": asdict(self.mask_tokenizer.config), "variant": asdict(self.variant)}
        return checkpoint.describe(self) | own

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> Self:
        backbone, tokenizer = checkpoint.empty_backbone(config, folder)
        masks = VQVAE(checkpoint.part(config, "mask_tokenizer", MaskTokenizerConfig, folder))
        own = checkpoint.part(config, "processor", ProcessorConfig, folder)
        variant = checkpoint.part(config, "variant", Variant, folder)
        return cls(backbone, ARGenSegProcessor(tokenizer, backbone.size, own, masks.config, variant), masks)

    # ---- training -------------------------------------------------------------------------------------------

    def enter_stage(self, stage: str) -> None:
        super().enter_stage(stage)
        self.mask_tokenizer.requires_grad_(False)
        self.backbone.vision_tower.requires_grad_(False)

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        low = self.processor.mask_token_offset
        blocks = slots_by_length(batch["ids"], self.processor.start_id, self.processor.end_id)
        mask = None
        if self.variant.intra_scale == "bidirectional" and blocks:
            mask = scale_mask(batch["ids"], blocks[0].rows, blocks[0].columns, self.level_of_slot)
        hidden, _ = self.hidden_states(batch, self._fill(batch), mask)
        each, target = self.token_losses(hidden, batch["labels"])
        visual = target >= low
        losses = {}
        if (~visual).any():
            losses["text"] = each[~visual].mean()
        if visual.any():
            scale = torch.zeros_like(batch["labels"])
            for _, rows, columns in blocks:
                scale[rows, columns + 1] = self.level_of_slot[: columns.shape[1]].expand(len(rows), -1)
            scale = scale[:, 1:][batch["labels"][:, 1:] != IGNORED][visual]
            by_scale = self.token_loss_weighting == "scales"
            losses["visual"] = balanced_mean(each[visual], scale if by_scale else None)
        if self.variant.head == "hidden" and blocks:
            ((_, rows, columns),) = blocks
            logits = self.backbone.head(hidden[rows, columns], low)
            losses |= self.map_losses(self.feature_map(logits), batch["masks"])
        return losses

    def map_losses(self, features: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Cross-entropy and Dice of the image decoded from [M, C, G, G] against masks [M, 1 or 3, R, R].

        The image's -1..1 becomes a logit of -4..4: the decoder was trained to reach 1, not infinity.
        """
        decoded = self.mask_tokenizer.decode_features(features).float()
        return mask_losses(4 * decoded.mean(1).flatten(1), masks.mean(1).flatten(1))

    def feature_map(self, logits: Tensor) -> Tensor:
        """The head "hidden": rows of C values [B, G * G, C] -> the decoder's input [B, C, G, G]."""
        return logits.float().transpose(1, 2).unflatten(2, (self.mask_tokenizer.quantize.grid, -1))

    def slot_inputs(self, scale_tokens: Tensor, start: int) -> Tensor:
        """Downsampled f_hat [M, n, C] of consecutive slots from `start` on -> language-model inputs [M, n, D]."""
        slots = slice(start, start + scale_tokens.shape[1])
        tokens = scale_tokens.to(self.word_embed.weight.dtype)  # sums and resizes stay in float32 whatever the model's
        return self.word_embed(tokens) + self.lvl_embed(self.level_of_slot[slots]) + self.pos_1LC[0, slots]

    def blank_inputs(self, count: int) -> Tensor:
        """Inputs [count, n - 1, D] of slots that are fed nothing but their place."""
        width = self.mask_tokenizer.config.code_width
        return self.slot_inputs(torch.zeros(count, self.slots - 1, width, device=self.device), 1)

    def _fill(self, batch: dict[str, Any]) -> Tensor:
        """Write the masks' visual ids into the labels -> embeddings [B, L, D] with the slot inputs in place."""
        embeddings = self.backbone.embed(batch["ids"])
        blocks = slots_by_length(batch["ids"], self.processor.start_id, self.processor.end_id)
        if not blocks:  # every batch uses the same modules in the same order, or ZeRO's processes would get stuck
            return embeddings + 0 * self.blank_inputs(1).sum()
        for masks, rows, columns in blocks:
            if self.variant.head == "hidden":
                write_labels(batch["labels"], rows, columns, IGNORED)
                inputs = self.blank_inputs(len(rows))
            else:
                ids = self.mask_ids(batch["masks"][masks])[:, : columns.shape[1]]
                write_labels(batch["labels"], rows, columns, self.processor.mask_token_offset + ids)
                inputs = self.slot_inputs(self.mask_tokenizer.quantize.teacher_forcing(ids), 1)
            embeddings = embeddings.index_put((rows, columns[:, 1:]), inputs.to(embeddings.dtype))
        return embeddings

    def mask_ids(self, masks: Tensor) -> Tensor:
        """[M, 1 or 3, R, R] in 0..1 -> ids [M, T]; masks come from the cache, if there is one."""
        return (self.cache if self.cache and masks.shape[1] == 1 else self.mask_tokenizer).encode(masks)

    # ---- answering ------------------------------------------------------------------------------------------

    @property
    def text_rows(self) -> int:
        return self.processor.mask_token_offset

    def block(self, tokens: int | None, decoding: Decoding) -> Block:
        counts = list(self.mask_tokenizer.prefixes)
        if tokens not in (None, *counts):
            raise UserError(f"An ARGenSeg mask is made of whole scales: {counts} tokens, not {tokens}; choose one.")
        scales = counts.index(tokens or counts[-1]) + 1
        single = len(counts) == 1  # one scale can only be written token by token
        kind = TokenByToken if single or self.variant.order == "token" else ScaleByScale
        kind = HiddenMap if self.variant.head == "hidden" else kind
        bidirectional, start = self.variant.intra_scale == "bidirectional", self.processor.start_id
        return Block(start, lambda: kind(self, scales, decoding), self.variant.masks, bidirectional)

    def free_block(self, decoding: Decoding) -> Block:
        """Any number of images, of which the first counts."""
        return replace(self.block(None, decoding), most=decoding.most_tokens)

    def first_mask(self, answer: Answer) -> Answer:
        return replace(answer, masks=answer.masks[:1], mask_ids=answer.mask_ids[:1])

    def block_ids(self, mask_ids: Sequence[int]) -> list[int]:
        """The end token alone: the release writes images beside the text."""
        return [self.processor.end_id]

    def read_mask(self, answer: Answer, prediction: Prediction, options: RequestOptions = USUAL_OPTIONS) -> list[str]:
        """The union of all masks of the answer."""
        if len(answer.masks) > 1:
            ids = [number for block in answer.mask_ids for number in block]
            answer = replace(answer, masks=[torch.stack(answer.masks).amax(0)], mask_ids=[ids])
        failures = super().read_mask(answer, prediction, options)
        if prediction.probabilities is not None and prediction.probabilities.ndim == 3:
            prediction.probabilities = prediction.probabilities.mean(0)
        return failures

    @torch.inference_mode()
    def generate(
        self,
        captions: Sequence[str],
        guidance: float = 4.0,
        top_k: int = 0,
        top_p: float = 0.0,
        seed: int | None = None,
    ) -> list[Image.Image]:
        """An image [R, R] for each caption, by classifier-free guidance (0 for none).

        Without a seed the likeliest tokens are taken, else tokens are sampled among the likeliest `top_k` that hold
        the mass `top_p` (VAR: guidance 4, 900, 0.96). The model must have been trained on the task "generate".
        """
        if self.variant.head == "hidden" or len(self.mask_tokenizer.prefixes) == 1:
            raise UserError("Images are written as tokens of several scales; choose a model of that variant.")
        if not captions:
            return []
        chat = self.processor.chat
        chat.check(captions, "The caption")
        prefix = self.processor.tokenizer.encode(prompts.GENERATE_PREFIX, add_special_tokens=False)
        texts = [*captions, *[prompts.NO_PROMPT] * len(captions)]
        rows = [chat.encode([Turn("user", text)], 0, reply=True)[0] + prefix for text in texts]
        nothing = torch.zeros(0, self.backbone.width, device=self.device)
        state = Decoder(self.backbone, *self._left_padded(rows, [nothing]))
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)
        schedule = Guided(self, guidance, top_k, top_p, generator)
        everyone = torch.ones(len(texts), dtype=torch.bool, device=self.device)
        state.write(schedule, everyone, self.variant.intra_scale == "bidirectional")
        decoded = self.mask_tokenizer.decode_features(schedule.features[: len(captions)])
        return [Image.fromarray(to_bytes(image)) for image in decoded]


def balanced_mean(losses: Tensor, group: Tensor | None) -> Tensor:
    """Mean of losses [K], or with their groups [K] the mean over groups of each group's mean."""
    if group is None:
        return losses.mean()
    _, member, count = group.unique(return_inverse=True, return_counts=True)
    return (losses / count[member]).sum() / len(count)
