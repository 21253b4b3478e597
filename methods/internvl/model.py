"""What the models of every method on InternVL share: language-model losses, answering, files.

Shapes: B rows, L tokens, D width, N tiles, P image tokens a tile, R side of the mask tokenizer's grid.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as checkpoint_pass

from methods.base import (
    DEFAULT,
    USUAL_OPTIONS,
    Decoding,
    Example,
    MaskTokenizer,
    Prediction,
    Request,
    RequestOptions,
    TrainingSample,
    UserError,
)
from methods.common.masks import without_letterbox
from methods.files import fill
from methods.images import open_image
from methods.internvl import checkpoint, prompts
from methods.internvl.attention import sample_lengths
from methods.internvl.backbone import Backbone
from methods.internvl.chat import IGNORED, Turn
from methods.internvl.config import VOCABULARY, ProcessorConfig, named_size
from methods.internvl.generation.engine import Answer, Block, Draft, decode
from methods.internvl.generation.int8 import quantise
from methods.internvl.generation.prefix import read_prefix
from methods.internvl.generation.timing import Clock
from methods.internvl.processor import InternVLProcessor
from methods.internvl.vocabulary import SPECIALS, stand_in

T = TypeVar("T")

RANDOM = "random:"  # in front of a size, where a backbone's folder is asked for
LOGITS = 2**26  # that are kept at once; more (a micro-batch of masks, 97 thousand ids) are computed twice instead


class Seen(NamedTuple):
    """An image to the language model, its tokens [P, D], and to the vision tower, patches [tiles, places, C]."""

    tokens: Tensor
    patches: Tensor


class Start(NamedTuple):
    """What a method's model starts from."""

    backbone: Backbone
    tokenizer: Any
    config: ProcessorConfig


class InternVLModel(nn.Module):
    """methods.base.Model without a mask tokenizer; subclasses add one, with its block, losses and stages."""

    name: ClassVar[str]
    stages: ClassVar[tuple[str, ...]]

    def __init__(self, backbone: Backbone, processor: InternVLProcessor):
        super().__init__()
        self.processor = processor
        self.backbone = backbone
        self.mask_tokenizer: MaskTokenizer | None = None
        self.heads: nn.Module | None = None  # auxiliary parts of a training stage, never saved with the model
        self.stage = ""
        self._past: list[Turn] = []  # the turns before, while a conversation is held

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    # ---- building, files ------------------------------------------------------------------------------------

    @staticmethod
    def start_from(config: Mapping[str, Any]) -> Start:
        """The backbone that a model's configuration names: `backbone`, the folder of an InternVL model, or
        `random:SIZE` for one of a named size with random weights and the official number of rows (or `vocabulary` and
        the specials), to plan and to time with; `texts`: what its tokenizer knows beside the bytes."""
        name = str(config["backbone"])
        if not name.startswith(RANDOM):
            return load_backbone(Path(name))
        size = named_size(name.removeprefix(RANDOM))
        rows = int(config["vocabulary"]) + len(SPECIALS) if "vocabulary" in config else VOCABULARY[size.text_family]
        tokenizer = stand_in(rows, config.get("texts", ()))
        backbone = Backbone(size, len(tokenizer), checkpoint.image_token_id(tokenizer))
        return Start(backbone, tokenizer, ProcessorConfig(max_tiles=size.max_tiles))

    def save_pretrained(self, folder: Path, dtype: str = "float32", max_shard_size: str = "5GB") -> None:
        checkpoint.save(self, Path(folder), dtype, max_shard_size)

    @classmethod
    def from_pretrained(
        cls, folder: Path, mask_tokenizer: Path | None = None, dtype: str = "float32", device: str = "cpu"
    ) -> Self:
        return checkpoint.load(cls, Path(folder), mask_tokenizer, getattr(torch, dtype), torch.device(device))

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> Self:
        """An uninitialised model as config.json describes it."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """What config.json holds; `from_config` is the inverse."""
        return checkpoint.describe(self)

    # ---- training -------------------------------------------------------------------------------------------

    def enter_stage(self, stage: str) -> None:
        if stage not in self.stages:
            raise UserError(f"{self.name} has no stage called {stage!r}; choose one of {', '.join(self.stages)}.")
        self.stage = stage
        self.requires_grad_(True)

    def hidden_states(
        self, batch: dict[str, Any], embeddings: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Last hidden states [B, L, D] and the vision tower's patches [N, patches, C] of a collated batch.

        `mask` bool [B, 1, L, L] replaces the causal one."""
        ids, patches = batch["ids"], None
        embeddings = self.backbone.embed(ids) if embeddings is None else embeddings
        if "pixels" in batch:
            patches = self.backbone.patches(batch["pixels"])
            tokens = self.backbone.project(patches)[batch["tile_of"]].flatten(0, 1)
            embeddings = self.backbone.place_images(embeddings, ids, tokens)
        elif self.training:  # every batch uses the same modules in the same order, or ZeRO's processes would get stuck
            side = self.backbone.size.image_size
            blank = self.backbone.patches(torch.zeros(1, 3, side, side, device=ids.device))
            embeddings = embeddings + 0 * self.backbone.project(blank).sum()
        positions = batch.get("positions")
        if positions is not None and mask is None:
            mask = sample_lengths(batch["lengths"])
        elif positions is not None:
            sample = (positions == 0).cumsum(1)
            mask = mask & (sample[:, None, :, None] == sample[:, None, None, :])
        return self.backbone.run(embeddings, mask, positions), patches

    def token_losses(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy [K] of each supervised token and its label [K]; the head runs on those positions only, in
        pieces if their logits are many."""
        target = labels[:, 1:]
        supervised = target != IGNORED
        states, target = hidden[:, :-1][supervised], target[supervised]
        piece = max(1, LOGITS // self.backbone.vocabulary)
        if len(target) <= piece:
            return self._cross_entropy(states, target), target
        pairs = zip(states.split(piece), target.split(piece), strict=True)
        return torch.cat([checkpoint_pass(self._cross_entropy, *pair, use_reentrant=False) for pair in pairs]), target

    def _cross_entropy(self, states: Tensor, target: Tensor) -> Tensor:
        """States [K, D] and ids [K] -> [K]."""
        return nn.functional.cross_entropy(self.backbone.head(states).float(), target, reduction="none")

    def prepare(self, example: Example, task: str, rng: np.random.Generator) -> TrainingSample:
        """Processor.prepare, for those who have the model at hand."""
        return self.processor.prepare(example, task, rng)

    def collate(self, samples: Sequence[TrainingSample], pack: bool = False) -> dict[str, Any]:
        """Processor.collate, likewise."""
        return self.processor.collate(samples, pack)

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        hidden, _ = self.hidden_states(batch)
        return {"text": self.token_losses(hidden, batch["labels"])[0].mean()}

    # ---- answering ------------------------------------------------------------------------------------------

    def block(self, tokens: int | None, decoding: Decoding) -> Block | None:
        """How this method writes a mask with a budget of tokens; None if it writes none."""
        return None

    @property
    def text_rows(self) -> int:
        """Vocabulary rows that may stand in text: all but the mask tokens, which come last."""
        return self.backbone.vocabulary

    @property
    def watched(self) -> tuple[int, int] | None:
        """Rows of the head whose logits `first_mask` needs of each step of an answer that is not constrained."""
        return None

    def writing(self, tokens: int | None, decoding: Decoding) -> tuple[Block | None, int]:
        """The blocks of masks that an answer may hold, and the number of rows among which its other tokens are."""
        if decoding.constrained:
            return self.block(tokens, decoding), self.text_rows
        return self.free_block(decoding), self.backbone.vocabulary

    def about(self, block: Block, patches: Sequence[Tensor]) -> Block:
        """The block for rows about images with these patches [tiles, places, C], the tile of the whole image last. Most
        methods write masks without a second look at the image."""
        return block

    def free_block(self, decoding: Decoding) -> Block | None:
        """What the official code does when an answer that is not constrained begins a mask; None if nothing."""
        return None

    def first_mask(self, answer: Answer) -> Answer:
        """An answer that was not constrained, with the one mask that the official code takes of it."""
        return answer

    def written_ids(self, answer: Answer) -> tuple[int, ...]:
        """All ids of an answer, as the official code lists them."""
        blocks, ids = iter(answer.mask_ids), []
        for token in answer.text_ids:
            ids += self.block_ids(next(blocks)) if token == -1 else [token]
        return (*ids, self.processor.chat.stop_id) if answer.finished else tuple(ids)

    def block_ids(self, mask_ids: Sequence[int]) -> list[int]:
        """The ids of a block of mask tokens, likewise."""
        return []

    def quantise(self) -> None:
        """Keep the weights of the language model's blocks as 8-bit integers from now on, for decoding only."""
        quantise(self.backbone.language_model)

    @torch.inference_mode()
    def segment(self, requests: Sequence[Request], decoding: Decoding = DEFAULT) -> list[Prediction]:
        predictions: list[Prediction | None] = [None] * len(requests)
        for tokens in dict.fromkeys(request.tokens for request in requests):
            rows = [i for i, request in enumerate(requests) if request.tokens == tokens]
            found = self._segment([requests[i] for i in rows], tokens, decoding)
            for row, prediction in zip(rows, found, strict=True):
                predictions[row] = prediction
        return predictions

    def _segment(self, requests: Sequence[Request], tokens: int | None, decoding: Decoding) -> list[Prediction]:
        clock, processor = Clock(self.device, decoding), self.processor
        for request in requests:
            processor.check_words(request)
        with clock.stage("preprocess"):
            keys = [_view(request) for request in requests]
            views = dict(zip(keys, requests, strict=True))
            opened = {key: open_image(request.image) for key, request in views.items()}
            tiles = {key: processor.pixels(opened[key], request.options) for key, request in views.items()}
            pixels = torch.from_numpy(np.concatenate(list(tiles.values()))).to(self.device)
        with clock.stage("vision"):
            seen = self._seen(pixels, tiles)
        asked = [Asked(i, keys[i], *each) for i, request in enumerate(requests) for each in self.instructions(request)]
        answers, passes = self._answers(requests, asked, seen, tokens, decoding, clock)
        with clock.stage("resize"):
            sizes = [r.options.size or opened[key].size[::-1] for r, key in zip(requests, keys, strict=True)]
            predictions = [Prediction(np.zeros(size, bool), steps=passes) for size in sizes]
            for (i, _, want, _), answer in zip(asked, answers, strict=True):
                predictions[i].written += self.written_ids(answer)
                answer = answer if decoding.constrained else self.first_mask(answer)
                self.read_answer(answer, want, predictions[i], requests[i].options)
        for prediction in predictions:
            prediction.seconds = {stage: value / len(requests) for stage, value in clock.seconds.items()}
        return predictions

    def _answers(
        self, requests: Sequence[Request], asked: Sequence[Asked], images: Mapping[Hashable, Seen],
        tokens: int | None, decoding: Decoding, clock: Clock,
    ) -> tuple[list[Answer], int]:  # fmt: skip
        """The answers to prompts, and the passes that were made for all of them. images: by their views.

        What prompts about an image begin with is read once, and prompts for the same things are answered together: a
        box would only wait while masks are written."""
        with clock.stage("preprocess"):
            tiles = {view: len(each.patches) for view, each in images.items()}
            prompts_ = [self.processor.prompt(each.text, tiles[each.view], self._past) for each in asked]
            beginnings, rests = self._beginnings(prompts_, [each.view for each in asked], decoding)
        prefix = None
        if beginnings:
            with clock.stage("prefill"):
                padded = self._left_padded(list(beginnings.values()), [images[view].tokens for view in beginnings])
                prefix = read_prefix(self.backbone, *padded)
        answers: dict[int, Answer] = {}
        for want in dict.fromkeys(each.want for each in asked):
            rows = [row for row, each in enumerate(asked) if each.want == want]
            views = [asked[row].view for row in rows]
            begun = prefix.of([list(beginnings).index(view) for view in views]) if prefix else None
            image_tokens = [] if prefix else [images[view].tokens for view in views]
            padded = self._left_padded([rests[row] for row in rows], image_tokens)
            block, text_rows = self.writing(tokens, decoding)
            block = block and self.about(block, [images[view].patches for view in views])
            draft = (
                self._draft([(requests[asked[row].request], want) for row in rows]) if decoding.constrained else None
            )
            found = decode(
                self.backbone, *padded, self.processor.chat.stop_id, block, text_rows,
                most_text=decoding.most_tokens, clock=clock, decoding=decoding, draft=draft, prefix=begun,
                watched=None if decoding.constrained else self.watched,
            )  # fmt: skip
            answers |= zip(rows, found, strict=True)
        return [answers[row] for row in range(len(asked))], int(prefix is not None)

    def instructions(self, request: Request) -> list[tuple[tuple[str, ...], str]]:
        """The protocol's question, or the processor's with what only weights can say: see HiMTok's mask prompts."""
        if request.options.question:
            return [(request.want, request.options.question)]
        return self.processor.instructions(request, self._past)

    def inputs(self, request: Request) -> list[tuple[str, list[int], np.ndarray]]:
        """What a request is to the language model and the vision tower: of each of its instructions the text, the ids
        of the whole prompt, and the pixels float32 [tiles, 3, S, S]."""
        pixels = self.processor.pixels(open_image(request.image), request.options)
        asked = self.instructions(request)
        return [(text, self.processor.prompt(text, len(pixels), self._past), pixels) for _, text in asked]

    def _seen(self, pixels: Tensor, tiles: Mapping[Any, np.ndarray]) -> dict[Any, Seen]:
        patches = self.backbone.patches(pixels)
        counts = [len(tile) for tile in tiles.values()]
        tokens = (part.flatten(0, 1) for part in self.backbone.project(patches).split(counts))
        return {view: Seen(*each) for view, *each in zip(tiles, tokens, patches.split(counts), strict=True)}

    def _beginnings(
        self, prompts: list[list[int]], views: Sequence[Hashable], decoding: Decoding
    ) -> tuple[dict[Hashable, list[int]], list[list[int]]]:
        """What all prompts about each image begin with, and their rests; nothing if no image has two, or if the images
        do not stand in what they share. Beginnings reach equally far behind their images."""
        of_view: dict[Hashable, list[list[int]]] = {}
        for view, prompt in zip(views, prompts, strict=True):
            of_view.setdefault(view, []).append(prompt)
        if len(of_view) == len(prompts) or decoding.backend == "official":
            return {}, prompts
        lasts = {view: _last(self.processor.chat.image_id, group[0]) for view, group in of_view.items()}
        behind = min(_shared(group) - lasts[view] for view, group in of_view.items())
        if behind <= 0:
            return {}, prompts
        ends = {view: last + behind for view, last in lasts.items()}
        rests = [prompt[ends[view] :] for view, prompt in zip(views, prompts, strict=True)]
        return {view: group[0][: ends[view]] for view, group in of_view.items()}, rests

    def _draft(self, asked: Sequence[tuple[Request, tuple[str, ...]]]) -> Draft | None:
        """What all answers of a batch are expected to say."""
        texts = {self.processor.expected(request, want, self._past) for request, want in asked}
        if len(texts) > 1 or None in texts:
            return None
        before, after = self.processor.chat.reply(*texts)
        return Draft(before, after)

    def _left_padded(self, prompts: list[list[int]], image_tokens: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Prompt embeddings [B, L, D], and valid bool [B, L] on the CPU, where the decoder looks at it."""
        length = max(map(len, prompts))
        ids = torch.tensor([[0] * (length - len(p)) + p for p in prompts], device=self.device)
        valid = torch.tensor([[False] * (length - len(p)) + [True] * len(p) for p in prompts])
        embeddings = self.backbone.embed(ids)
        if image_tokens:
            embeddings = self.backbone.place_images(embeddings, ids, torch.cat(image_tokens))
        return embeddings, valid

    def read_answer(
        self, answer: Answer, want: tuple[str, ...], prediction: Prediction, options: RequestOptions = USUAL_OPTIONS
    ) -> None:
        """Fill a prediction from a decoded answer; what is asked for and missing becomes its failure."""
        height, width = prediction.mask.shape
        text = self.processor.answer_text(answer.text_ids)
        prediction.text = f"{prediction.text}\n{text}".strip()
        prediction.steps += answer.steps
        failures = []
        if "box" in want:
            place = text, width, height, self.processor.config.box_scale
            loosely = options.box != "strict"
            square = options.box == "loose_square"
            prediction.box = prompts.read_box_loosely(*place, square) if loosely else prompts.read_box(*place)
            if prediction.box is None:
                failures.append("no box in the answer")
        if "mask" in want:
            failures += self.read_mask(answer, prediction, options)
        if not answer.finished:
            failures.append("the answer was cut off")
        prediction.failure = "; ".join(filter(None, [prediction.failure, *failures])) or None

    def read_mask(self, answer: Answer, prediction: Prediction, options: RequestOptions = USUAL_OPTIONS) -> list[str]:
        """Set the prediction's mask to the first one written. Returns what went wrong."""
        if not answer.masks:
            return ["no mask in the answer"]
        size = prediction.mask.shape
        soft = without_letterbox(answer.masks[0], size) if options.letterbox else answer.masks[0]
        prediction.mask = self.mask_tokenizer.postprocess_mask(soft, size, options.mask_resize)
        prediction.probabilities = answer.masks[0].float().cpu().numpy()
        prediction.token_ids = tuple(answer.mask_ids[0])
        prediction.corrections = answer.corrections
        return []


class Asked(NamedTuple):
    """One prompt: the number of its request, the view of its image, what the answer yields, and the user's text."""

    request: int
    view: Hashable
    want: tuple[str, ...]
    text: str


def _last(token: int, prompt: list[int]) -> int:
    """The last place of a token in a prompt."""
    return max(place for place, other in enumerate(prompt) if other == token)


def _shared(prompts: list[list[int]]) -> int:
    """How many tokens prompts begin with alike; of each at least one is left."""
    least = min(map(len, prompts)) - 1
    return next((i for i in range(least) if len({prompt[i] for prompt in prompts}) > 1), least)


def _view(request: Request) -> tuple[Any, int | None, bool]:
    """Requests of the same view share one pass of the vision tower."""
    image = request.image if isinstance(request.image, Path) else id(request.image)
    return image, request.options.tiles, request.options.letterbox


def load_backbone(folder: Path) -> Start:
    """A saved backbone alone: ours, transformers' native layout, or OpenGVLab's original one."""
    kept: list[Any] = []

    def build(config: Mapping[str, Any]) -> Backbone:
        backbone, tokenizer = checkpoint.empty_backbone(config, folder)
        kept[:] = tokenizer, checkpoint.part(config, "processor", ProcessorConfig, folder)
        return backbone

    return Start(checkpoint.load_part(folder, checkpoint.BACKBONE_ALONE, "backbone.", build), *kept)


def changed(config: ProcessorConfig, values: Mapping[str, Any]) -> ProcessorConfig:
    """A processor's configuration with some of its fields changed."""
    return made(ProcessorConfig, asdict(config) | dict(values), "processor")


def made(kind: type[T], values: Mapping[str, Any], name: str = "") -> T:
    """A configuration from some of its fields, as a stage's `model` gives them (under `name` in it).

    Raises UserError for a field that it lacks or a value that it does not allow.
    """
    return fill(kind, dict(values), f"model.{name}" if name else "model", "correct it")
