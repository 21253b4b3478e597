"""Named sizes of the backbone, as transformers configurations, and the processor's choices. Imports no torch.

The official sizes follow the config.json files of OpenGVLab/InternVL2_5-* and InternVL3-* (the checkpoint's own file
wins when one is loaded). `nano` and `tiny` have the same architecture, small enough to be trained from scratch on a
laptop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from methods.base import UserError
from methods.files import setting

if TYPE_CHECKING:
    from transformers import InternVLConfig

WIDEST, DEEPEST, MOST_TILES = 2**16, 512, 1024
ROWS = 2**22  # the most rows of a vocabulary that are believed


@dataclass(frozen=True)
class BackboneSize:
    """Everything that fixes an architecture. Widths in features, `image_size` and `patch_size` in pixels."""

    text_family: str = setting(choices=("qwen2", "internlm2"))  # the latter is arithmetically a Llama
    text_width: int = setting(low=1, high=WIDEST)
    text_layers: int = setting(low=1, high=DEEPEST)
    text_heads: int = setting(low=1, high=WIDEST)
    text_kv_heads: int = setting(low=1, high=WIDEST)
    text_mlp: int = setting(low=1, high=4 * WIDEST)
    vision_width: int = setting(low=1, high=WIDEST)
    vision_layers: int = setting(low=1, high=DEEPEST)
    vision_heads: int = setting(low=1, high=WIDEST)
    vision_mlp: int = setting(low=1, high=4 * WIDEST)
    # "300m": LayerNorm and biased q, k, v; "6b": RMSNorm, q and k normalised, no bias
    vision_style: str = setting("300m", choices=("300m", "6b"))
    image_size: int = setting(448, 1, 4096)
    patch_size: int = setting(14, 1, 256)
    max_tiles: int = setting(12, 1, MOST_TILES)
    rope_theta: float = setting(1e6, 1, 1e12)
    rms_eps: float = setting(1e-6, 0, 1)
    layer_scale: float = setting(0.1, -1e6, 1e6)
    vision_eps: float = setting(1e-6, 0, 1)

    def __post_init__(self) -> None:
        for whole, divisor in (
            ("text_width", "text_heads"), ("text_heads", "text_kv_heads"), ("vision_width", "vision_heads"),
            ("image_size", "patch_size"),
        ):  # fmt: skip
            if getattr(self, whole) % getattr(self, divisor):
                values = getattr(self, whole), getattr(self, divisor)
                raise UserError(f"{whole} is {values[0]}, no multiple of {divisor}, {values[1]}.")
        if self.text_width // self.text_heads % 2 or self.image_size // self.patch_size % 2:
            raise UserError("A head of the language model and the patches of a tile's side must be of an even number.")

    @property
    def tokens_per_tile(self) -> int:
        """Image tokens of one tile after the pixel shuffle by 2."""
        return (self.image_size // self.patch_size // 2) ** 2


@dataclass(frozen=True)
class ProcessorConfig:
    """Choices of how images and boxes are written that belong to a checkpoint and travel in its config.json.

    image_first: the image stands before the words (InternVL's habit) or after them. system: the system sentence, empty
    for no system turn. max_tiles: of an image, the thumbnail apart. box_scale: boxes are integers of 0..box_scale.
    """

    image_first: bool = True
    system: str = ""
    max_tiles: int = setting(12, 1, MOST_TILES)
    box_scale: int = setting(1000, 1, 10**6)


SIZES = {
    "tiny": BackboneSize(
        "qwen2", 64, 2, 2, 1, 128, 64, 2, 1, 128, image_size=224, max_tiles=1, rope_theta=1e4, layer_scale=1.0
    ),
    "nano": BackboneSize(
        "qwen2", 256, 4, 4, 2, 704, 192, 4, 3, 768, image_size=224, max_tiles=1, rope_theta=1e4, layer_scale=1.0
    ),
    "mid": BackboneSize("internlm2", 512, 8, 8, 2, 1408, 384, 6, 6, 1536),  # for timing on a CPU, never trained
    "1b": BackboneSize("qwen2", 896, 24, 14, 2, 4864, 1024, 24, 16, 4096),
    "2b": BackboneSize("internlm2", 2048, 24, 16, 8, 8192, 1024, 24, 16, 4096, rms_eps=1e-5),
    "4b": BackboneSize("qwen2", 2048, 36, 16, 2, 11008, 1024, 24, 16, 4096),
    "8b": BackboneSize("internlm2", 4096, 32, 32, 8, 14336, 1024, 24, 16, 4096, rms_eps=1e-5),
    "26b": BackboneSize("internlm2", 6144, 48, 48, 8, 16384, 3200, 45, 25, 12800, "6b", rms_eps=1e-5),
    "38b": BackboneSize("qwen2", 5120, 64, 40, 8, 27648, 3200, 45, 25, 12800, "6b"),
    "78b": BackboneSize("qwen2", 8192, 80, 64, 8, 29568, 3200, 45, 25, 12800, "6b"),
    # InternVL3 on Qwen2.5 where it is not of a size above (its 1B, 38B and 78B are): 1.5B, 7B and 14B of Qwen2.5
    "internvl3-2b": BackboneSize("qwen2", 1536, 28, 12, 2, 8960, 1024, 24, 16, 4096),
    "internvl3-8b": BackboneSize("qwen2", 3584, 28, 28, 4, 18944, 1024, 24, 16, 4096),
    "internvl3-14b": BackboneSize("qwen2", 5120, 48, 40, 8, 13824, 1024, 24, 16, 4096),
}

VOCABULARY = {"qwen2": 151674, "internlm2": 92553}  # rows of the embedding in every InternVL2_5-* of the family


def named_size(name: str) -> BackboneSize:
    """The size called name, in small letters or capitals. Raises UserError for an unknown one."""
    name = name.lower()
    if name not in SIZES:
        raise UserError(f"There is no backbone size called {name!r}; choose one of {', '.join(SIZES)}.")
    return SIZES[name]


def size_name(settings: Mapping[str, Any]) -> str:
    """The name of the size that a checkpoint's config.json describes, in our layout or an official one; "" if it is
    none of the named."""
    text, vision = (settings.get(f"{part}_config") for part in ("text", "vision"))
    text = settings.get("llm_config", text)
    own = settings.get("backbone")
    found = {
        "text_width": (own, "text_width", text, "hidden_size"),
        "text_layers": (own, "text_layers", text, "num_hidden_layers"),
        "vision_width": (own, "vision_width", vision, "hidden_size"),
    }
    shape = {
        key: ours.get(name) if isinstance(ours, Mapping) else theirs.get(other) if isinstance(theirs, Mapping) else None
        for key, (ours, name, theirs, other) in found.items()
    }
    return next((name for name, size in SIZES.items() if all(getattr(size, k) == v for k, v in shape.items())), "")


def transformers_config(size: BackboneSize, vocabulary: int, image_token_id: int) -> InternVLConfig:
    """The native configuration for a size and a vocabulary.

    The embeddings are untied, as in every InternVL2.5; `tie_word_embeddings` defaults to True in the native class
    and would silently overwrite the output head.
    """
    # here, because profiles are checked against this file without torch
    from transformers import InternVLConfig, InternVLVisionConfig, LlamaConfig, Qwen2Config

    from methods.internvl.attention import NAME as BY_SAMPLE

    big_vision = size.vision_style == "6b"
    vision = InternVLVisionConfig(
        hidden_size=size.vision_width,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=size.vision_heads,
        intermediate_size=size.vision_mlp,
        attention_bias=not big_vision,
        use_qk_norm=big_vision,
        norm_type="rms_norm" if big_vision else "layer_norm",
        layer_norm_eps=float(size.vision_eps),  # transformers takes no whole number for a float
        image_size=[size.image_size, size.image_size],
        patch_size=[size.patch_size, size.patch_size],
        layer_scale_init_value=float(size.layer_scale),
        use_mean_pooling=True,  # makes the final norm an identity; the original has none
    )
    shared = dict(
        vocab_size=vocabulary,
        hidden_size=size.text_width,
        intermediate_size=size.text_mlp,
        num_hidden_layers=size.text_layers,
        num_attention_heads=size.text_heads,
        num_key_value_heads=size.text_kv_heads,
        max_position_embeddings=32768,
        rms_norm_eps=float(size.rms_eps),
        rope_parameters={"rope_type": "default", "rope_theta": float(size.rope_theta)},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    if size.text_family == "qwen2":
        text = Qwen2Config(use_sliding_window=False, **shared)
    else:
        head = size.text_width // size.text_heads
        text = LlamaConfig(attention_bias=False, mlp_bias=False, head_dim=head, **shared)
    config = InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=image_token_id,
        image_seq_length=size.tokens_per_tile,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    config._attn_implementation = "sdpa"
    config.text_config._attn_implementation = BY_SAMPLE
    return config


@dataclass
class ContinuedStage:
    """A stage's `model` that can go on from a trained one, the folder `start`; then the settings NEW, which only a new
    model follows, are refused."""

    NEW: ClassVar[tuple[str, ...]] = ()
    seed: int = 0
    start: str = ""

    def __post_init__(self) -> None:
        if self.start:
            refuse_settings_of_new(self, self.start, self.NEW)


@dataclass
class BackboneStage(ContinuedStage):
    """The keys of every stage that trains a model on the backbone: `start`; or `backbone` (folder of an InternVL model,
    or random:SIZE with `vocabulary` and `texts`) and `mask_tokenizer` (folder of a trained one). With both the
    processor's choices, and `drop_path`, the vision tower's stochastic depth (Backbone.drop_path)."""

    NEW: ClassVar[tuple[str, ...]] = ("backbone", "vocabulary", "texts", "mask_tokenizer_config", "init")
    backbone: str = ""
    vocabulary: int = 0
    texts: list[str] = field(default_factory=list)
    mask_tokenizer: str = ""
    processor: ProcessorConfig = field(default_factory=ProcessorConfig)
    drop_path: float = setting(0.0, 0, 0.99)


def refuse_settings_of_new(stage: Any, source: str, names: Sequence[str]) -> None:
    """Raise UserError if a stage that continues what lies in `source` has a setting, one of `names`, that only a new
    model would follow."""
    for each in fields(stage):
        default = each.default if each.default is not MISSING else each.default_factory()
        if each.name in names and getattr(stage, each.name) != default:
            raise UserError(f"{each.name} is for a new model, but {source} is continued; drop one of them.")
