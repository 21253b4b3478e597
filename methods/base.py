"""The contract between the harness and a method: all that `bench` knows of a model.

A method is a multimodal language model that *writes* a mask:

    method = InternVL2.5 + mask vocabulary + mask tokenizer + decoding schedule

Legend of the shapes below: B batch, R side of the mask tokenizer's square grid, T mask tokens, V mask vocabulary,
D width of the language model, H x W the user's image. Boxes are xyxy in pixels, float, ends exclusive.

This file imports no torch, so that data, metrics and reports can use the types without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image
    from torch import Tensor

Box = tuple[float, float, float, float]


class UserError(Exception):
    """Input that cannot be used. Its message is one sentence that names the file or sample and the repair;
    the command line prints it alone and exits with code 2."""


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
    turns: tuple[tuple[str, str], ...] = ()  # (role, text) of a written conversation, with `<image>` and `<mask>`
    semantic: np.ndarray | None = None  # uint8 [H, W], class index + 1 of the object at each pixel, 0 background
    facts: Mapping[str, Any] = field(default_factory=dict)  # what breakdowns group by: style, kind, small, ...
    no_target: bool = False  # the dataset says that the expressions refer to nothing: the mask is empty by intent


def mask_of(example: Example) -> np.ndarray:
    """The example's mask bool [H, W]. Raises UserError if it has none."""
    if example.mask is None:
        where = f"{example.dataset} sample {example.ref_id}"
        raise UserError(f"{where}: has no mask, which is needed here; use other data.")
    return example.mask


@dataclass(frozen=True)
class RequestOptions:
    """How a question is put and its answer is read, where an evaluation protocol says so. The defaults leave all of it
    to the method and its checkpoint.

    question: the user's words, whole. size: (H, W) of mask and box, the image's own if None. tiles: that the image is
    cut into at most. letterbox: the image stands in the middle of a square instead of being squashed to one, and the
    mask is cut out of it again. mask_resize: how a soft mask comes to its size, "bilinear" or "official" (as the
    method's official evaluation does it).
    box: how a box is read, one of BOXES: "strict", a box that has an area, on the model's scale; "loose", the first
    four numbers in brackets, which are fractions if they sum to less than 4; "loose_square", the same, of an image in
    the middle of a square.
    """

    question: str = ""
    size: tuple[int, int] | None = None
    tiles: int | None = None
    letterbox: bool = False
    mask_resize: str = ""
    box: str = "strict"

    def __post_init__(self) -> None:
        for name, allowed in OPTION_CHOICES.items():
            if getattr(self, name) not in allowed:
                known = ", ".join(filter(None, allowed))
                raise UserError(f"There is no {name} {getattr(self, name)!r} of a protocol; choose {known}.")


MASK_RESIZES, BOXES = ("bilinear", "official"), ("strict", "loose", "loose_square")
OPTION_CHOICES = {"mask_resize": ("", *MASK_RESIZES), "box": BOXES}
USUAL_OPTIONS = RequestOptions()


@dataclass(frozen=True)
class Request:
    """What a user asks of a method: the mask and/or the box of what the expressions describe, or of what he points at.

    want: of "mask" and "box", in the order in which they shall be written where the method has a choice; "choice"
    ("choices" if several may be right): the letters of those expressions that fit `mask`, in the prediction's text; or
    "text", the answer to the question that `options` has.
    """

    image: Path | Image.Image
    expressions: tuple[str, ...]
    want: tuple[str, ...] = ("mask",)
    tokens: int | None = None  # mask tokens to spend, for mask tokenizers that can stop early
    joined: bool = False  # the expressions are all that is said of one object (protocol per_object_joined)
    mask: np.ndarray | None = None  # bool [H, W]; this and the next two are given by the user instead of words
    box: Box | None = None
    points: tuple[tuple[float, float], ...] = ()  # x, y in pixels
    options: RequestOptions = USUAL_OPTIONS


RULES = ("hard", "official", "expected")  # of decoding


@dataclass(frozen=True)
class Decoding:
    """How answers are computed. What is answered depends on `rule` and `constrained` alone (and on
    `answer_text="forced"`, and on the numbers beside them).

    backend: "fast"; "cuda_graphs", the same with the steps of a mask block recorded as CUDA graphs and replayed; or
        "official", the way of the official codes, which every speed is compared with.
    answer_text: an answer's fixed words are "generated" one by one; or read at once as a "verified_draft", compared
        with what the model would have written; or "forced" without a look (for timing models that were never trained).
    timing: whether the clock waits for the device: "none", at the ends of "stages", or of each of the "steps" too.
    rule: what a step's distribution over mask tokens becomes. "hard": the likeliest token is fed to the next step and
        decoded; "official": as the method's official code does it; "expected" (ours): the expected code vector under a
        softmax at `temperature` is fed and decoded, so that what is nearly as likely counts too.
    watch: called with the name of each stage (and step) for a context that is entered around it.
    constrained: mask tokens stand in mask blocks alone, and nothing else in them. Without, each token is the likeliest
        of the whole vocabulary, as in the official evaluations, and a mask is whatever such an answer holds of one.
    most_tokens: that one answer may have, mask tokens included where it is not constrained.
    """

    backend: str = "fast"
    answer_text: str = "verified_draft"
    timing: str = "none"
    rule: str = "official"
    temperature: float = 1.0
    watch: Callable[[str], AbstractContextManager] | None = None
    constrained: bool = True
    most_tokens: int = 64

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"There is no {name} {getattr(self, name)!r} of decoding; choose {', '.join(allowed)}.")
        if not self.constrained and self.rule != "official":
            raise UserError(f"An answer that is not constrained is decoded as officially, not by {self.rule!r}.")
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
    written: tuple[int, ...] = ()  # all ids of the answer, its end included, as the official code lists them
    steps: int = 0  # forward passes of the language model, prefill included
    corrections: int | None = None  # mask tokens in whose place the likeliest one was not allowed, if counted
    seconds: dict[str, float] = field(default_factory=dict)  # per stage
    failure: str | None = None


@dataclass
class TrainingSample:
    """One tokenised conversation. `labels` are aligned with `ids` and not yet shifted; -100 is not learned."""

    ids: list[int]
    labels: list[int]
    image: np.ndarray | None = None  # uint8 [tiles, 3, S, S]
    image_key: str = ""  # samples of one batch with the same key share one pass of the vision tower
    masks: list[np.ndarray] = field(default_factory=list)  # float32 [R, R] in 0..1, in the order of their blocks
    extras: dict[str, np.ndarray] = field(default_factory=dict)  # stackable arrays for auxiliary losses


class Processor(Protocol):
    """Turns examples and requests into tokens and back. It holds no weights, so data workers need no model."""

    def prepare(self, example: Example, task: str, rng: np.random.Generator) -> TrainingSample:
        """The conversation of a task about an example; every random choice comes from rng."""

    def truncate(self, sample: TrainingSample, length: int, where: str) -> None:
        """Cut a sample to a number of tokens, in place. Raises UserError, which begins with `where`, if what is left
        would be of no use. Only asked of stages that train on text."""

    def collate(self, samples: Sequence[TrainingSample], pack: bool = False) -> dict[str, Any]:
        """Samples -> one batch of tensors: right-padded rows, or packed one after the other into a single row."""


class MaskTokenizer(Protocol):
    """The two-way map between masks and token ids; a torch module."""

    resolution: int  # R
    length: int  # T
    size: int  # V
    # numbers of leading tokens from which a mask can be decoded, T the last; none where it takes more than tokens, and
    # then nothing is encoded or decoded
    prefixes: tuple[int, ...]

    def parameters(self) -> Iterator[Tensor]:
        """Its weights; none for a tokenizer that is plain arithmetic."""

    def preprocess_mask(self, mask: np.ndarray) -> np.ndarray:
        """bool [H, W] -> what is encoded, float32 [R, R] in 0..1."""

    def encode(self, masks: Tensor, tokens: int | None = None) -> Tensor:
        """float [B, 1, R, R] in 0..1 -> int64 ids [B, tokens], one of `prefixes`; all T for None."""

    def decode(self, ids: Tensor) -> Tensor:
        """int64 [B, T] (fewer where the tokenizer allows) -> mask probabilities float [B, R, R]."""

    def decode_soft(self, probabilities: Tensor) -> Tensor:
        """float [B, T, V] -> mask probabilities float [B, R, R], differentiable."""

    def postprocess_mask(self, probabilities: Tensor, size: tuple[int, int], mask_resize: str = "") -> np.ndarray:
        """Probabilities [R, R] -> the mask bool [H, W] at the image's size = (H, W); mask_resize: as in RequestOptions,
        the tokenizer's own if it is empty."""


class Schedule(Protocol):
    """What is fed to the language model while it writes one block of mask tokens per row.

    The engine calls `first`, then `next` with the logits of each step until it returns None, then feeds `tail`
    as ordinary text. It knows nothing else of the method.
    """

    # rows [low, high) of the output head among which a mask token is chosen; None for a schedule of one step that is
    # given the hidden states [B, n, D] in place of logits
    vocabulary: tuple[int, int] | None
    # bool [B], the rows whose block is not full, where their lengths differ: the others take no part in the next step
    unfinished: Tensor | None
    corrections: Sequence[int] | None  # [B], how often the likeliest token was not allowed, where that is counted

    def first(self, batch: int) -> Tensor:
        """Embeddings [B, n, D] of the first step."""

    def next(self, logits: Tensor) -> Tensor | None:
        """Logits [B, n, V] of the step before -> embeddings [B, n', D] of the next, or None when the block is full."""

    def tail(self) -> Tensor:
        """Ids [B, m] that must follow the block, in the language model's vocabulary; m may be 0 after a single step."""

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
    def from_pretrained(
        cls, folder: Path, mask_tokenizer: Path | None = None, dtype: str = "float32", device: str = "cpu"
    ) -> Trainee:
        """The inverse; reads official folders too, and takes the mask tokenizer of an official file if one is given.

        dtype: of the weights, but for the mask tokenizer's, which decide ids and stay in float32; "bfloat16" is for
        answering. device: where the weights are made. Raises UserError with the names of missing or unexpected tensors,
        and with the numbers where they do not fit into a GPU's free memory."""


class Model(Trainee, Protocol):
    """A trained or trainable model of a method."""

    name: str  # of the method
    stages: tuple[str, ...]  # that train it, the last one last
    device: torch.device

    def eval(self) -> Model:
        """As torch.nn.Module's."""

    def segment(self, requests: Sequence[Request], decoding: Decoding = DEFAULT) -> list[Prediction]:
        """Answer requests in one batch; each distinct image passes the vision tower once."""


class Refiner(Protocol):
    """A second model that sharpens the masks of a method; a torch module."""

    @classmethod
    def from_pretrained(cls, place: Path) -> Refiner:
        """From its file or folder. Raises UserError if that holds something else."""

    def to(self, device: torch.device) -> Refiner:
        """Itself, on a device."""

    def refine(
        self, image: Path | Image.Image, predictions: Sequence[Prediction], mask_resize: str = "", empty: bool = False
    ) -> list[Prediction]:
        """Sharpen predictions for one image, in place. mask_resize: as in RequestOptions. empty: whether masks that
        are empty, or that nobody wrote, are refined too."""


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
    estimate: function (trainee, load, precision) -> cost of a micro-batch (methods.common.cost); answering: the same of
    answering a batch.
    reference_checks: modules with `recognises(folder)` and `check(folder)` for reference vectors.
    convert: function (source, target) between official checkpoints and ours. official: function (folder, settings,
    mask_tokenizer) -> config.json and tensors in our layout, of an official folder with these settings in its
    config.json and perhaps the file of another mask tokenizer; or of an official file of a mask tokenizer alone,
    which has no settings. architectures: names in an official config.json.
    reference_model: function folder -> the model of reference runs of the official evaluation, where it is more than
    the folder's checkpoint/.
    refiner: the class that sharpens its masks (Refiner).
    protocols: file of the evaluation protocols that are the method's own ("official"; see methods/protocols.py).
    releases: where the "checkpoint", and perhaps the "mask_tokenizer", are published.
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
    answering: Reference | None = None
    reference_checks: tuple[Reference, ...] = ()
    convert: Reference | None = None
    official: Reference | None = None
    architectures: tuple[str, ...] = ()
    refiner: Reference | None = None
    protocols: Path | None = None
    releases: Mapping[str, str] = field(default_factory=dict)
    reference_model: Reference | None = None
