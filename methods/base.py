"""The contract between the harness and a method: all that `bench` knows of a model.

A method is a multimodal language model that *writes* a mask:

    method = InternVL2.5 + mask vocabulary + mask tokenizer + decoding schedule

Legend of the shapes below: B batch, R side of the mask tokenizer's square grid, T mask tokens, V mask vocabulary,
D width of the language model, H x W the user's image. Boxes are xyxy in pixels, float, ends exclusive.

This file imports no torch, so that data, metrics and reports can use the types without it.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Box = tuple[float, float, float, float]
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # that are read; none starts another program
MOST_PIXELS = 50_000_000  # of an image that is read


class UserError(Exception):
    """Input that cannot be used. Its message is one sentence that names the file or sample and the repair;
    the command line prints it alone and exits with code 2."""


def open_image(source: Path | str | Image.Image) -> Image.Image:
    """An upright RGB image from a path or an opened image.

    Palette, grey, 16-bit and RGBA images are converted (transparency over white), EXIF rotation is undone.
    Raises UserError if the file is missing, is no image of the FORMATS, or has more than MOST_PIXELS.
    """
    if isinstance(source, Image.Image):
        _check_pixels(source.size, "The image")
        return _upright_rgb(source)
    try:
        with open_header(source) as handle:
            _check_pixels(handle.size, str(source))
            handle.load()
            return _upright_rgb(handle.copy() if _orientation(handle) == 1 else handle)
    except FileNotFoundError:
        raise UserError(f"{source}: no such file; give the path of an image.") from None
    except UNREADABLE as error:
        raise UserError(f"{source}: not a readable image ({error}); give a PNG, JPEG or WebP file.") from None


UNREADABLE = (
    OSError, ValueError, SyntaxError, EOFError, TypeError, KeyError, IndexError, AttributeError, OverflowError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # what Pillow raises for damaged files  # fmt: skip


def open_header(source: Path | str) -> Image.Image:
    """An image whose pixels are not read yet, of the FORMATS alone. Raises one of UNREADABLE."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # there is a limit of ours
        return Image.open(source, formats=FORMATS)


def _check_pixels(size: tuple[int, int], name: str) -> None:
    if size[0] * size[1] > MOST_PIXELS:
        raise UserError(
            f"{name}: {size[0]} x {size[1]} pixels, more than the {MOST_PIXELS // 10**6} megapixels that are read; "
            "give a smaller copy."
        )


def _orientation(image: Image.Image) -> int:
    return image.getexif().get(0x0112, 1)


def _upright_rgb(image: Image.Image) -> Image.Image:
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # 16-bit and float greys would clip, so they are scaled by their maximum
        grey = np.asarray(image, np.float32)
        image = Image.fromarray(np.uint8(255 * grey.clip(0) / max(float(grey.max()), 1.0)))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


@dataclass(frozen=True)
class Example:
    """One referent (or other sample) of a dataset, with its ground truth."""

    image: Path | Image.Image
    expressions: tuple[str, ...]
    mask: np.ndarray | None = None  # bool [H, W]
    box: Box | None = None
    ignore: np.ndarray | None = None  # bool [H, W], pixels that no metric counts
    dataset: str = ""
    split: str = ""
    image_id: int | str = ""
    ref_id: int | str = ""
    task: str = "segment"
    answer: str | None = None  # the text to learn, for tasks without a mask
    semantic: np.ndarray | None = None  # uint8 [H, W], class index + 1 of the object at each pixel, 0 background
    facts: Mapping[str, Any] = field(default_factory=dict)  # what breakdowns group by: style, kind, small, ...
    no_target: bool = False  # the dataset says that the expressions refer to nothing: the mask is empty by intent


@dataclass(frozen=True)
class Request:
    """What a user asks of a method: the mask and/or the box of what the expressions describe, or of what he points at.

    want: of "mask" and "box", in the order in which they shall be written where the method has a choice; or "choice"
    ("choices" if several may be right): the letters of those expressions that fit `mask`, in the prediction's text.
    """

    image: Path | Image.Image
    expressions: tuple[str, ...]
    want: tuple[str, ...] = ("mask",)
    tokens: int | None = None  # mask tokens to spend, for mask tokenizers that can stop early
    joined: bool = False  # the expressions are all that is said of one object (protocol per_object_joined)
    mask: np.ndarray | None = None  # bool [H, W]; this and the next two are given by the user instead of words
    box: Box | None = None
    points: tuple[tuple[float, float], ...] = ()  # x, y in pixels


RULES = ("hard", "official", "expected")  # of decoding


@dataclass(frozen=True)
class Decoding:
    """How answers are computed. What is answered depends on `rule` alone (and on `answer_text="forced"`).

    backend: "fast"; "cuda_graphs", the same with the steps of a mask block recorded as CUDA graphs and replayed; or
        "official", the way of the official codes, which every speed is compared with.
    answer_text: an answer's fixed words are "generated" one by one; or read at once as a "verified_draft", compared
        with what the model would have written; or "forced" without a look (for timing models that were never trained).
    timing: whether the clock waits for the device: "none", at the ends of "stages", or of each of the "steps" too.
    rule: what a step's distribution over mask tokens becomes. "hard": the likeliest token is fed to the next step and
        decoded; "official": as the method's official code does it; "expected" (ours): the expected code vector under a
        softmax at `temperature` is fed and decoded, so that what is nearly as likely counts too.
    watch: called with the name of each stage (and step) for a context that is entered around it.
    """

    backend: str = "fast"
    answer_text: str = "verified_draft"
    timing: str = "none"
    rule: str = "official"
    temperature: float = 1.0
    watch: Callable[[str], AbstractContextManager] | None = None

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"There is no {name} {getattr(self, name)!r} of decoding; choose {', '.join(allowed)}.")
        if not self.temperature > 0:
            raise UserError(f"The temperature of decoding is {self.temperature}; give a number above 0.")


CHOICES = {
    "backend": ("fast", "cuda_graphs", "official"),
    "answer_text": ("generated", "verified_draft", "forced"),
    "timing": ("none", "stages", "steps"),
    "rule": RULES,
}
DEFAULT = Decoding()


@dataclass
class Prediction:
    """A method's answer. A missing or malformed generation is an empty mask or no box, and says so in `failure`."""

    mask: np.ndarray  # bool [H, W]
    probabilities: np.ndarray | None = None  # float32 [R, R]
    box: Box | None = None  # as written in the text
    text: str = ""
    token_ids: tuple[int, ...] = ()  # of the mask, counted from 0 in the mask vocabulary
    steps: int = 0  # forward passes of the language model, prefill included
    seconds: dict[str, float] = field(default_factory=dict)  # per stage
    failure: str | None = None


@dataclass
class TrainingSample:
    """One tokenised conversation. `labels` are aligned with `ids` and not yet shifted; -100 is not learned."""

    ids: list[int]
    labels: list[int]
    image: np.ndarray | None = None  # float32 [tiles, 3, S, S]
    image_key: str = ""  # samples of one batch with the same key share one pass of the vision tower
    masks: list[np.ndarray] = field(default_factory=list)  # float32 [R, R] in 0..1, in the order of their blocks
    extras: dict[str, np.ndarray] = field(default_factory=dict)  # stackable arrays for auxiliary losses


class Processor(Protocol):
    """Turns examples and requests into tokens and back. It holds no weights, so data workers need no model."""

    def prepare(self, example: Example, task: str, rng: np.random.Generator) -> TrainingSample:
        """The conversation of a task about an example; every random choice comes from rng."""

    def collate(self, samples: Sequence[TrainingSample], pack: bool = False) -> dict[str, Any]:
        """Samples -> one batch of tensors: right-padded rows, or packed one after the other into a single row."""


class MaskTokenizer(Protocol):
    """The two-way map between masks and token ids; a torch module."""

    resolution: int  # R
    length: int  # T
    size: int  # V
    prefixes: tuple[int, ...]  # numbers of leading tokens from which a mask can be decoded, T the last

    def preprocess_mask(self, mask: np.ndarray) -> np.ndarray:
        """bool [H, W] -> what is encoded, float32 [R, R] in 0..1."""

    def encode(self, masks: Tensor) -> Tensor:
        """float [B, 1, R, R] in 0..1 -> int64 ids [B, T]."""

    def decode(self, ids: Tensor) -> Tensor:
        """int64 [B, T] (fewer where the tokenizer allows) -> mask probabilities float [B, R, R]."""

    def decode_soft(self, probabilities: Tensor) -> Tensor:
        """float [B, T, V] -> mask probabilities float [B, R, R], differentiable."""

    def postprocess_mask(self, probabilities: Tensor, size: tuple[int, int]) -> np.ndarray:
        """Probabilities [R, R] -> the mask bool [H, W] at the image's size = (H, W)."""


class Schedule(Protocol):
    """What is fed to the language model while it writes one block of mask tokens per row.

    The engine calls `first`, then `next` with the logits of each step until it returns None, then feeds `tail`
    as ordinary text. It knows nothing else of the method.
    """

    vocabulary: tuple[int, int]  # rows [low, high) of the output head among which a mask token is chosen

    def first(self, batch: int) -> Tensor:
        """Embeddings [B, n, D] of the first step."""

    def next(self, logits: Tensor) -> Tensor | None:
        """Logits [B, n, V] of the step before -> embeddings [B, n', D] of the next, or None when the block is full."""

    def tail(self) -> Tensor:
        """Ids [B, m] that must follow the block, in the language model's vocabulary."""

    def ids(self) -> Tensor:
        """The block's ids [B, T], counted from 0 in the mask vocabulary."""

    def probabilities(self) -> Tensor:
        """The block's mask probabilities [B, R, R] from the mask tokenizer."""


class Trainee(Protocol):
    """A torch module in training: a model, or a mask tokenizer with what its own stage needs."""

    processor: Processor
    mask_tokenizer: MaskTokenizer | None

    @classmethod
    def build(cls, config: Mapping[str, Any], corpus: Callable[[], Iterable[str]]) -> Trainee:
        """From the `model` of a stage (fields of StageSpec.config). `corpus` yields the training texts, for a text
        tokenizer that is trained from scratch."""

    def enter_stage(self, stage: str) -> None:
        """Freeze and unfreeze parameters for a training stage and choose what `loss` does."""

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Named scalar losses; their sum is minimised. Names that begin with `_` are only logged."""

    def save_pretrained(self, folder: Path, dtype: str = "float32", max_shard_size: str = "5GB") -> None:
        """Write config.json, the tokenizer and safetensors (floating tensors as dtype, files up to a size)."""

    @classmethod
    def from_pretrained(cls, folder: Path) -> Trainee:
        """The inverse. Raises UserError with the names of missing or unexpected tensors."""


class Model(Trainee, Protocol):
    """A trained or trainable model of a method."""

    device: torch.device

    def segment(self, requests: Sequence[Request], decoding: Decoding = DEFAULT) -> list[Prediction]:
        """Answer requests in one batch; each distinct image passes the vision tower once."""


Reference = str  # "package.module:name", imported when it is used


@dataclass(frozen=True)
class StageSpec:
    """A kind of training stage.

    trainee: the class that is built for it. config: the dataclass whose fields a profile's `model` may have.
    tasks: what its samples can be about. losses: their names, for `loss_weights`. mask_tokenizer: the stage trains the
    mask tokenizer alone, is validated by its reconstructions, and cannot be sharded, because codes move in place.
    semantic: its samples use Example.semantic.
    """

    trainee: Reference
    config: type
    tasks: tuple[str, ...]
    losses: tuple[str, ...]
    mask_tokenizer: bool = False
    semantic: bool = False


@dataclass(frozen=True)
class MethodSpec:
    """All that `bench` knows of a method before it imports torch. What is not declared here is not asked for.

    title: the name in tables. model: the class that answers requests. wants, given: what a request may ask for, and
    what it may give in place of words. Optional abilities, None or False where there are none:
    adaptive_length: function (model, examples, thresholds) -> accuracy and tokens spent with early exit.
    image_generation, int8: the model has `generate`, or `quantise`.
    estimate: function (trainee, load, precision) -> cost of a micro-batch (methods.common.cost).
    reference_checks: modules with `recognises(folder)` and `check(folder)` for reference vectors.
    convert: function (source, target) between official checkpoints and ours.
    """

    name: str
    title: str
    model: Reference
    stages: Mapping[str, StageSpec]
    wants: tuple[str, ...] = ("mask",)
    given: tuple[str, ...] = ()
    adaptive_length: Reference | None = None
    image_generation: bool = False
    int8: bool = False
    estimate: Reference | None = None
    reference_checks: tuple[Reference, ...] = ()
    convert: Reference | None = None
