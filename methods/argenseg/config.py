"""ARGenSeg's choices: sizes of the VQ-VAE, variants, and what a profile may say of a model. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from methods.argenseg.prefix import Prefix
from methods.base import UserError
from methods.common.config import AUGMENTATIONS, RestartConfig
from methods.files import setting
from methods.internvl.config import ROWS, WIDEST, BackboneStage, ContinuedStage

SCALES_256 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)  # 680 tokens
SCALES_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)  # 2240 tokens
TASKS = ("segment", "box", "caption", "question", "generate", "conversation")
# How the visual cross-entropy weighs its tokens: all alike (the paper), or every scale alike (ours). The 14 tokens of
# the first three scales weigh 2 % among 680; the second gives them more say. The two were not compared.
TOKEN_LOSS_WEIGHTINGS = ("tokens", "scales")
GROUPS = 32  # of every normalisation
INITS = ("zeros", "var", "grid")
CHOICES = {
    "intra_scale": ("causal", "bidirectional"),
    "order": ("scale", "token"),
    "head": ("tokens", "hidden"),
    "mask_resize": ("bilinear", "official"),
    "prompt_template": ("plain", "official"),
}


@dataclass(frozen=True)
class MaskTokenizerConfig:
    """Sizes of the VQ-VAE; the defaults are the official ones. `multipliers` has one entry per level, and each
    level but the last halves the image, so resolution = scales[-1] * 2^(levels - 1). `mask_resize`: how masks become
    images and come back, see `masks.py`."""

    resolution: int = setting(256, 1, 4096)
    width: int = setting(160, 1, WIDEST)
    multipliers: tuple[int, ...] = setting((1, 1, 2, 2, 4), 1, 64)
    blocks: int = setting(2, 1, 64)
    codes: int = setting(4096, 1, ROWS)
    code_width: int = setting(32, 1, WIDEST)
    scales: tuple[int, ...] = setting(SCALES_256, 1, 64)
    quant_resi: int = setting(4, 1, 64)  # number of different convolutions that a scale's contribution passes
    beta: float = setting(0.25, 0)
    # share of the convolution in what a scale adds; the rest bypasses it
    quant_resi_ratio: float = setting(0.5, 0, 1)
    mask_resize: str = setting("bilinear", choices=CHOICES["mask_resize"])

    def __post_init__(self) -> None:
        if self.mask_resize not in CHOICES["mask_resize"]:
            known = " or ".join(CHOICES["mask_resize"])
            raise UserError(f"ARGenSeg has no mask_resize {self.mask_resize!r}; choose {known}.")
        if not self.scales or not self.multipliers or len(self.multipliers) > 12 or len(self.scales) > 64:
            raise UserError("The image tokenizer needs 1 to 64 scales and 1 to 12 levels.")
        if any(self.width * m % GROUPS for m in self.multipliers):
            raise UserError(
                f"The image tokenizer's widths must be multiples of {GROUPS}; correct width or multipliers."
            )
        if any(a >= b for a, b in zip(self.scales, self.scales[1:], strict=False)):
            raise UserError("The image tokenizer's scales must grow from one to the next; correct scales.")
        side = self.scales[-1] * 2 ** (len(self.multipliers) - 1)
        if self.resolution != side:
            levels = len(self.multipliers)
            raise UserError(
                f"The image tokenizer's last scale {self.scales[-1]} and its {levels} levels make images of {side} "
                f"pixels, not {self.resolution}; correct resolution, scales or multipliers."
            )
        if self.quant_resi < 1:
            raise UserError(
                f"The image tokenizer has {self.quant_resi} quant_resi convolutions; at least one, shared, is needed."
            )


@dataclass(frozen=True)
class Variant:
    """How a mask is written and asked for. The defaults are the official method.

    intra_scale: within a scale a token sees the earlier ones ("causal", as released) or all ("bidirectional", as VAR).
    order: a whole scale per step or one token per step; with causal attention the tokens are the same.
    head: "tokens", or "hidden": one step whose states are read out as the decoder's feature map, without any code.
    prompt_template: "official" adds the blanks and stops of the official evaluation's prompt.
    masks: how many masks an answer may hold; a prediction is their union.
    """

    intra_scale: str = setting("causal", choices=CHOICES["intra_scale"])
    order: str = setting("scale", choices=CHOICES["order"])
    head: str = setting("tokens", choices=CHOICES["head"])
    prompt_template: str = setting("plain", choices=CHOICES["prompt_template"])
    masks: int = setting(1, 1, 10**4)

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name, allowed[0]) not in allowed:
                raise UserError(f"ARGenSeg has no {name} {getattr(self, name)!r}; choose {' or '.join(allowed)}.")
        if self.masks < 1:
            raise UserError(f"ARGenSeg cannot write {self.masks} masks in an answer; choose 1 or more.")
        if (self.intra_scale, self.order) == ("bidirectional", "token"):
            raise UserError("Tokens that see their whole scale cannot be written singly; use intra_scale causal.")


@dataclass(frozen=True)
class PerceptualConfig:
    """An image network in transformers' layout whose distance is a loss; side: pixels it sees, 0 for all."""

    folder: str
    side: int = setting(0, 0, 4096)


@dataclass(frozen=True)
class DiscriminatorConfig:
    """start: passes before it begins; width: channels of the first layer; layers: halvings."""

    start: int = setting(0, 0)
    width: int = setting(64, 1, WIDEST)
    layers: int = setting(3, 1, 16)


@dataclass
class TokenizerStage(ContinuedStage):
    """`mask_tokenizer_config` of a new VQ-VAE, or `start` (folder of a trained one or of a model); `perceptual` and
    `adversarial` (fields of PerceptualConfig and DiscriminatorConfig) turn these losses on."""

    NEW = ("mask_tokenizer_config",)
    mask_tokenizer_config: MaskTokenizerConfig = field(default_factory=MaskTokenizerConfig)
    codebook_restart: RestartConfig = field(default_factory=RestartConfig)
    augmentation: str = setting("none", choices=AUGMENTATIONS)
    perceptual: PerceptualConfig | None = None
    adversarial: DiscriminatorConfig | None = None


@dataclass
class ModelStage(BackboneStage):
    """For a new model also `mask_tokenizer_config` of an untrained VQ-VAE, and `init` of the slot inputs ("zeros" as
    released, "var" or "grid"). For any the weighting of the visual loss, `prefix` (samples that are trained on the
    first scales only), fields of Variant (not `head` for a continued model), how a mask gets to the image's size, and
    `token_cache`, a folder in which the masks' ids are kept."""

    NEW = (*BackboneStage.NEW, "mask_tokenizer")
    mask_tokenizer_config: MaskTokenizerConfig = field(default_factory=MaskTokenizerConfig)
    init: str = setting("zeros", choices=INITS)
    token_loss_weighting: str = setting("tokens", choices=TOKEN_LOSS_WEIGHTINGS)
    prefix: Prefix = field(default_factory=Prefix)
    variant: Variant = field(default_factory=Variant)
    mask_resize: str = setting("bilinear", choices=CHOICES["mask_resize"])
    token_cache: str = ""
