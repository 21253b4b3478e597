"""HiMTok's choices: sizes of the mask tokenizer, losses, and what a profile may say of a model. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from methods.base import UserError
from methods.common.config import AUGMENTATIONS, RestartConfig
from methods.files import setting
from methods.internvl.config import DEEPEST, ROWS, WIDEST, BackboneStage, ContinuedStage

BOX_SCALE = 999  # the official evaluation divides by 999
TASKS = (
    "segment", "segment_box", "box_segment", "box", "box_to_mask", "points_to_mask", "mask_to_box", "segment_tokens",
    "segment_tokens_box", "choose", "choose_several", "dialogue", "caption", "question", "conversation",
)  # fmt: skip
# How the cross-entropy of a block weighs its tokens: all alike (the paper), or every octave 1, 2, 3-4, 5-8, ... alike
# (ours). The first four of 32 tokens, which say where the object is, are an eighth of a block in the one and half of it
# in the other.
TOKEN_LOSS_WEIGHTINGS = ("tokens", "octaves")
MASK_RESIZES = ("bilinear", "official")
INITS = ("mean", "codes")
LAYOUTS, CODE_SPACES = ("clean", "official"), ("normalised", "official")
STEMS, PIXEL_DECODERS, STARTS = ("linear", "convolutional"), ("official", "subpixel"), ("plain", "anchored")
GROUPS = 32  # of the pixel decoder's normalisations, where it has so many channels
FINE_GROUPS = 8  # of our own stem and decoder
HIERARCHIES, RULES = ("paper", "official", "off"), ("full", "early_exit", "end_token")
TEMPERATURE = 0.5  # of the soft codes, as released


def _check(value: str, allowed: tuple[str, ...], what: str) -> None:
    if value not in allowed:
        raise UserError(f"HiMTok has no {what} {value!r}; choose {' or '.join(allowed)}.")


@dataclass(frozen=True)
class MaskTokenizerConfig:
    """Sizes and named choices of the mask tokenizer. The defaults of the sizes are the official ones.

    encoder_layout: "clean" projects each latent to its own code vector, so that token k depends on latents 0..k;
        "official" reinterprets the latents' memory before the projection, which mixes all of them into every token.
    code_space: "normalised" feeds unit code vectors to the detokenizer on every path; "official" feeds raw vectors
        where probabilities are decoded and unit vectors where ids are.
    stem: how a patch becomes a vector, "linear" (official) or "convolutional" (ours, see pixel_decoder.Stem).
    pixel_decoder: "official", or "subpixel" (ours, see pixel_decoder.SubpixelDecoder), which has levels of pixel_base,
        2 * pixel_base, ... channels up to the patches and no use for pixel_multipliers.
    start: values with which training from scratch begins; "anchored" (ours) gives the latents places on the image, so
        that later ones look at smaller parts of it, and equal queries and keys, so that attention begins local.
        The three of ours together reach in one minute what the official layout needs six for (results/nano/STUDY.md).
    mask_resize: how a mask comes to the image's size, "bilinear" or "official" (its nearest neighbours).
    """

    resolution: int = setting(256, 1, 4096)
    patch: int = setting(16, 1, 256)
    width: int = setting(1024, 1, WIDEST)
    encoder_layers: int = setting(24, 1, DEEPEST)
    decoder_layers: int = setting(24, 1, DEEPEST)
    heads: int = setting(16, 1, WIDEST)
    decoder_width: int | None = setting(None, 1, WIDEST)  # None: as the encoder's
    decoder_heads: int | None = setting(None, 1, WIDEST)
    latents: int = setting(32, 1, 4096)
    codes: int = setting(1024, 1, ROWS)
    code_width: int = setting(12, 1, WIDEST)
    commitment: float = setting(0.01, 0)
    ffn_out: int = setting(1024, 1, WIDEST)
    pixel_base: int = setting(128, 1, WIDEST)
    pixel_multipliers: tuple[int, ...] = setting((1, 1, 2, 2, 4), 1, 64)
    pixel_blocks: int = setting(2, 1, 64)  # residual blocks of each level of the pixel decoder
    # and before the first level; None: as many, like the official one
    pixel_mid_blocks: int | None = setting(None, 0, 64)
    encoder_layout: str = setting("clean", choices=LAYOUTS)
    code_space: str = setting("normalised", choices=CODE_SPACES)
    stem: str = setting("linear", choices=STEMS)
    pixel_decoder: str = setting("official", choices=PIXEL_DECODERS)
    start: str = setting("plain", choices=STARTS)
    mask_resize: str = setting("bilinear", choices=MASK_RESIZES)

    def __post_init__(self) -> None:
        _check(self.encoder_layout, LAYOUTS, "encoder_layout")
        _check(self.code_space, CODE_SPACES, "code_space")
        _check(self.mask_resize, MASK_RESIZES, "mask_resize")
        _check(self.stem, STEMS, "stem")
        _check(self.pixel_decoder, PIXEL_DECODERS, "pixel_decoder")
        _check(self.start, STARTS, "start")
        for width, heads in ((self.width, self.heads), (self.decoder_width, self.decoder_heads)):
            if (width or self.width) % (heads or self.heads):
                raise UserError(f"A width of {width or self.width} cannot be shared by {heads or self.heads} heads.")
        if self.stem == "convolutional" or self.pixel_decoder == "subpixel":
            self._check_halving()
        if self.pixel_decoder == "official":
            self._check_levels()

    def _check_halving(self) -> None:
        """Ours halve the mask until a pixel is a patch."""
        if self.patch < 4 or self.patch & (self.patch - 1) or self.resolution % self.patch:
            raise UserError(
                f"The mask tokenizer's patches of {self.patch} of {self.resolution} pixels cannot be reached by "
                "halving; choose a patch of 4, 8, 16 ... that divides resolution, or the official stem and decoder."
            )
        if self.pixel_decoder == "subpixel" and self.pixel_base % FINE_GROUPS:
            raise UserError(f"The pixel decoder has {self.pixel_base} channels; take a multiple of {FINE_GROUPS}.")

    def _check_levels(self) -> None:
        for channels in {self.pixel_base * m for m in self.pixel_multipliers}:
            if channels % min(GROUPS, channels):
                raise UserError(f"The pixel decoder has {channels} channels; above {GROUPS} take a multiple of it.")
        if not self.pixel_multipliers:
            raise UserError("The pixel decoder has no levels; give pixel_multipliers.")
        side = self.grid * 2 ** (len(self.pixel_multipliers) - 1)
        if self.resolution != side or self.resolution % self.patch:
            levels = len(self.pixel_multipliers)
            raise UserError(
                f"The mask tokenizer's patches of {self.patch} and its {levels} pixel levels make masks of {side} "
                f"pixels, not {self.resolution}; correct resolution, patch or pixel_multipliers."
            )

    @property
    def grid(self) -> int:
        return self.resolution // self.patch

    @property
    def mid_blocks(self) -> int:
        return self.pixel_blocks if self.pixel_mid_blocks is None else self.pixel_mid_blocks


@dataclass(frozen=True)
class HierarchyConfig:
    """The hierarchical mask loss. variant: "paper", "official" (the released code, see hierarchy.py), or "off" for the
    whole sequence alone; levels: partial levels per step; dice: its weight against the cross-entropy (0.25 in the
    released code); temperature: of the soft codes."""

    variant: str = setting("paper", choices=HIERARCHIES)
    levels: int = setting(3, 0, 4096)
    dice: float = setting(0.25, 0)
    temperature: float = setting(TEMPERATURE, 1e-6)

    def __post_init__(self) -> None:
        _check(self.variant, HIERARCHIES, "hierarchical loss")
        if self.levels < 0 or self.temperature <= 0:
            raise UserError(
                f"The hierarchical loss has {self.levels} levels and the temperature {self.temperature}; "
                "give at least 0 levels and a positive temperature."
            )


@dataclass(frozen=True)
class AdaptiveLength:
    """When a mask is long enough. A request's number of tokens stays the upper bound.

    rule: "full" writes that number. "early_exit" looks at every `every`-th prefix and stops when the mask decoded from
        it differs from the one before by at most `threshold` (1 - IoU of the two). "end_token" stops where the model
        itself writes the end token, which it learns from requests for a number of tokens.
    """

    rule: str = setting("full", choices=RULES)
    threshold: float = setting(0.02, 0, 1)
    every: int = setting(4, 1, 4096)

    def __post_init__(self) -> None:
        _check(self.rule, RULES, "rule for the length")
        if self.every < 1 or not 0 <= self.threshold <= 1:
            raise UserError(f"every is {self.every} and threshold {self.threshold}; give at least 1 and 0 to 1.")


@dataclass(frozen=True)
class LearnedLength:
    """Blocks that end early in training, so that the end token is learned where more tokens would hardly change the
    mask. share: of the answers' whole blocks that are cut (0: none, as published); threshold: IoU that a cut may cost.
    """

    share: float = setting(0.0, 0, 1)
    threshold: float = setting(0.02, 0, 1)

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or not 0 <= self.threshold <= 1:
            raise UserError(
                f"learned_length has the share {self.share} and the threshold {self.threshold}; give numbers of 0 to 1."
            )


@dataclass(frozen=True)
class Speech:
    """What config.json says at its top of how a model asks and answers."""

    decode: str = setting("soft", choices=("soft", "hard"))
    prompt_template: str | Mapping[str, Any] = "ours"
    budget_in_prompt: bool = False


@dataclass
class TokenizerStage(ContinuedStage):
    """Stage 1: `mask_tokenizer_config` of a new tokenizer, or `start` (folder of a trained one or of a model);
    `augmentation` of its masks."""

    NEW = ("mask_tokenizer_config",)
    mask_tokenizer_config: MaskTokenizerConfig = field(default_factory=MaskTokenizerConfig)
    codebook_restart: RestartConfig = field(default_factory=lambda: RestartConfig(warmup=300))
    augmentation: str = setting("none", choices=AUGMENTATIONS)


@dataclass
class ModelStage(BackboneStage):
    """Stages 2 and 3. For a new model also `mask_tokenizer_config` of an untrained tokenizer, and `init` of the mask
    tokens' rows; a continued one may get another `mask_tokenizer`. For any the losses, `prompt_template` ("ours",
    "short", "official", a file or its content), whether a requested number of mask tokens is also said in the prompt,
    how a mask gets to the image's size, and what ends a block in training (`learned_length`) and in an answer
    (`adaptive_length`)."""

    mask_tokenizer_config: MaskTokenizerConfig = field(default_factory=MaskTokenizerConfig)
    init: str = setting("mean", choices=INITS)
    hierarchy: HierarchyConfig = field(default_factory=HierarchyConfig)
    token_loss_weighting: str = setting("tokens", choices=TOKEN_LOSS_WEIGHTINGS)
    learned_length: LearnedLength = field(default_factory=LearnedLength)
    adaptive_length: AdaptiveLength = field(default_factory=AdaptiveLength)
    prompt_template: Any = "ours"
    budget_in_prompt: bool = False
    mask_resize: str = setting("bilinear", choices=MASK_RESIZES)
