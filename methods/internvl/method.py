"""What every method on InternVL shares, and the backbone itself as a method that only writes boxes.

A subclass adds a codec, a mask block and its own tasks; tokenised samples, batches, the language-model loss, decoding
and files are here. Used alone (`internvl` in the registry) it is the common starting point of both alphabets, and in
tables the row that tells what a mask is worth beyond a filled box.

Shapes: B rows, L tokens, D width, N tiles, P image tokens a tile, M masks in a batch, R side of the codec's grid.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as checkpoint_pass

from methods.base import Codec, Example, Method, Prediction, Request, TrainingSample, UserError, open_image
from methods.files import setting
from methods.internvl import checkpoint
from methods.internvl import prompts as tasks
from methods.internvl.attention import sample_lengths
from methods.internvl.backbone import Backbone
from methods.internvl.chat import IGNORED, MASK, Chat, Turn
from methods.internvl.config import MOST_TILES, VOCABULARY, named_size
from methods.internvl.generation.engine import Answer, Block, Draft, decode
from methods.internvl.generation.int8 import quantise
from methods.internvl.generation.timing import Clock
from methods.internvl.pretraining import PretrainingHeads, patch_targets
from methods.internvl.tiles import make_tiles
from methods.internvl.vocabulary import SPECIALS, stand_in, train_tokenizer

RANDOM = "random:"  # in front of a size, where a backbone's folder is asked for
LOGITS = 2**26  # that are kept at once; more (a micro-batch of masks, 97 thousand ids) are computed twice instead


@dataclass(frozen=True)
class Options:
    """Choices that belong to a checkpoint and travel in its config.json."""

    image_first: bool = True
    system: str = ""
    max_tiles: int = setting(12, 1, MOST_TILES)
    box_scale: int = setting(1000, 1, 10**6)


class InternVLMethod(Method, nn.Module):
    """InternVL2.5 that answers with text; the base of the mask-writing methods.

    Stage "pretrain" trains everything on boxes, captions and questions with two auxiliary losses (PretrainingHeads).
    """

    name: ClassVar[str] = "internvl"
    stages: ClassVar[tuple[str, ...]] = ("pretrain",)

    def __init__(self, backbone: Backbone | None, tokenizer: Any, options: Options):
        super().__init__()
        self.options = options
        self.tokenizer = tokenizer
        self.backbone = backbone
        self.codec: Codec | None = None
        self.chat = Chat(tokenizer, backbone.size.tokens_per_tile, options.system) if backbone else None
        self.heads: nn.Module | None = None  # auxiliary parts of a training stage, never saved with the model
        self.stage = ""
        self._last_image: tuple[str, np.ndarray, tuple[int, int]] | None = None

    # ---- building, files ------------------------------------------------------------------------------------

    @classmethod
    def build(cls, parts: Mapping[str, Any], corpus: Callable[[], Iterable[str]]) -> InternVLMethod:
        """A fresh backbone for training from nothing, or one to go on with.

        parts: size (a named size), vocabulary (entries of the BPE trained on the corpus), seed, image_first, system;
        or backbone (see `base`) and options (fields of Options).
        """
        if "backbone" in parts:
            check_parts(parts, "backbone vocabulary texts options", "InternVL model to go on with")
            method = cls.base(parts)
            method.choose(parts.get("options", {}))
            return method
        check_parts(parts, "size vocabulary image_first system", "new InternVL model")
        size = named_size(parts.get("size", "nano"))
        seed = int(parts.get("seed", 0))
        tokenizer = train_tokenizer(corpus(), int(parts.get("vocabulary", 1024)))
        torch.manual_seed(seed)
        backbone = Backbone(size, len(tokenizer), checkpoint.image_token_id(tokenizer))
        backbone.initialise_from_scratch(seed)
        options = Options(bool(parts.get("image_first", True)), str(parts.get("system", "")), size.max_tiles)
        return cls(backbone, tokenizer, options)

    @classmethod
    def base(cls, parts: Mapping[str, Any]) -> InternVLMethod:
        """The backbone that a method's parts name: `backbone`, the folder of an InternVL model, or `random:SIZE` for
        one of a named size with random weights and the official number of rows (or `vocabulary` and the specials),
        to plan and to time with; `texts`: what its tokenizer knows beside the bytes."""
        name = str(parts["backbone"])
        if not name.startswith(RANDOM):
            return InternVLMethod.from_pretrained(Path(name))
        size = named_size(name.removeprefix(RANDOM))
        rows = int(parts["vocabulary"]) + len(SPECIALS) if "vocabulary" in parts else VOCABULARY[size.text_family]
        tokenizer = stand_in(rows, parts.get("texts", ()))
        backbone = Backbone(size, len(tokenizer), checkpoint.image_token_id(tokenizer))
        return InternVLMethod(backbone, tokenizer, Options(max_tiles=size.max_tiles))

    def choose(self, options: Mapping[str, Any]) -> None:
        """Change some of the options (fields of Options) that came with a checkpoint."""
        self.options = made(Options, asdict(self.options) | dict(options), "options")
        if self.backbone is not None:
            self.chat = Chat(self.tokenizer, self.backbone.size.tokens_per_tile, self.options.system)

    def save_pretrained(self, folder: Path, dtype: str = "float32", max_shard_size: str = "5GB") -> None:
        checkpoint.save(self, Path(folder), dtype, max_shard_size)

    @classmethod
    def from_pretrained(cls, folder: Path) -> InternVLMethod:
        return checkpoint.load(cls, Path(folder))

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path) -> InternVLMethod:
        """An uninitialised method as config.json describes it."""
        backbone, tokenizer = checkpoint.empty_backbone(config, folder)
        return cls(backbone, tokenizer, checkpoint.options(config, Options, folder))

    def config(self) -> dict[str, Any]:
        """What config.json holds; `from_config` is the inverse."""
        return checkpoint.describe(self)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    # ---- training -------------------------------------------------------------------------------------------

    def enter_stage(self, stage: str) -> None:
        if stage not in self.stages:
            raise UserError(f"{self.name} has no stage called {stage!r}; choose one of {', '.join(self.stages)}.")
        self.stage = stage
        self.requires_grad_(True)
        if stage == "pretrain" and self.options.max_tiles > 1:
            raise UserError("Stage pretrain reads one tile for each picture; set parts.options.max_tiles to 1.")
        if stage == "pretrain" and self.heads is None:
            self.heads = PretrainingHeads(self.backbone.size)

    def conversation(self, example: Example, task: str, size: tuple[int, int], rng: np.random.Generator) -> list[Turn]:
        """The turns of a task; subclasses add their own tasks."""
        return tasks.converse(example, task, size, self.options.box_scale, self.options.image_first, rng)

    def mask_block(self) -> list[int]:
        """The ids that stand for one `<mask>` before the codec has filled them in."""
        return []

    def prepare(self, example: Example, task: str, rng: np.random.Generator) -> TrainingSample:
        where = f"{example.dataset} sample {example.ref_id}"
        self.chat.check(example.expressions, f"{where}: the expression")
        self.chat.check([example.answer or ""], f"{where}: the answer")
        key, pixels, size = self._tiles(example)
        turns = self.conversation(example, task, size, rng)
        ids, labels = self.chat.encode(turns, len(pixels), self.mask_block())
        sample = TrainingSample(ids, labels, pixels, key)
        for _ in range(sum(turn.text.count(MASK) for turn in turns)):
            sample.masks.append(self.codec_view(example))
        if self.stage == "pretrain":
            sample.extras = patch_targets(example, self.backbone.size)
        return sample

    def codec_view(self, example: Example) -> np.ndarray:
        """The example's mask as float32 [R, R] in 0..1 on the codec's grid, squashed to a square."""
        raise UserError(f"{self.name} has no mask codec; train a box, a caption or a question.")

    def _tiles(self, example: Example) -> tuple[str, np.ndarray, tuple[int, int]]:
        """(key, tiles, (width, height)); the last picture is kept, because its other samples come next."""
        key = f"{example.dataset}/{example.split}/{example.image_id}: {example.image}"
        if self._last_image is None or self._last_image[0] != key:
            image = open_image(example.image)
            tiles = make_tiles(image, self.backbone.size.image_size, self.options.max_tiles)
            self._last_image = (key, tiles, image.size)
        return self._last_image

    def collate(self, samples: Sequence[TrainingSample], pack: bool = False) -> dict[str, Any]:
        """Right-padded ids and labels [B, L]; tiles of distinct pictures [N, 3, S, S] with the tile of each
        placeholder group `tile_of`; masks [M, 1, R, R]; stacked extras. Packed, B is 1, `positions` [1, L] begin
        anew with each sample, and `lengths` (a list) tell attention where."""
        ids, labels, packing = _packed(samples) if pack else _padded(samples)
        tiles, first_tile, tile_of = [], {}, []
        for sample in samples:
            if sample.image is not None:
                if sample.image_key not in first_tile:
                    first_tile[sample.image_key] = sum(len(tile) for tile in tiles)
                    tiles.append(sample.image)
                start = first_tile[sample.image_key]
                tile_of += range(start, start + len(sample.image))
        batch: dict[str, Any] = {"ids": ids, "labels": labels} | packing
        if tiles:
            batch |= {"pixels": torch.from_numpy(np.concatenate(tiles)), "tile_of": torch.tensor(tile_of)}
        masks = [mask for sample in samples for mask in sample.masks]
        if masks:
            batch["masks"] = torch.from_numpy(np.stack(masks))[:, None]
        for name in samples[0].extras:
            batch[name] = torch.from_numpy(np.stack([sample.extras[name] for sample in samples]))
        return batch

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
        """Cross-entropy [K] of each learned token and its label [K]; the head runs on those positions only, in
        pieces if their logits are many."""
        target = labels[:, 1:]
        learned = target != IGNORED
        states, target = hidden[:, :-1][learned], target[learned]
        piece = max(1, LOGITS // self.backbone.vocabulary)
        if len(target) <= piece:
            return self._cross_entropy(states, target), target
        pairs = zip(states.split(piece), target.split(piece), strict=True)
        return torch.cat([checkpoint_pass(self._cross_entropy, *pair, use_reentrant=False) for pair in pairs]), target

    def _cross_entropy(self, states: Tensor, target: Tensor) -> Tensor:
        """States [K, D] and ids [K] -> [K]."""
        return nn.functional.cross_entropy(self.backbone.head(states).float(), target, reduction="none")

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        hidden, patches = self.hidden_states(batch)
        losses = {"text": self.token_losses(hidden, batch["labels"])[0].mean()}
        if self.heads is not None:
            image_tokens = hidden[batch["ids"] == self.backbone.image_token_id]
            grids = image_tokens.reshape(-1, self.backbone.size.tokens_per_tile, hidden.shape[-1])
            losses |= self.heads(grids, patches, batch)
        return losses

    # ---- answering ------------------------------------------------------------------------------------------

    def questions(self, request: Request) -> list[tuple[tuple[str, ...], str]]:
        """What to ask for a request: (what the answer yields, the user's text without the picture).

        Raises UserError for a request that the method cannot serve."""
        self.refuse_more_than_words(request)
        phrase = tasks.join_expressions(request.expressions)
        return [(("mask", "box"), tasks.BOX_REQUESTS[0].format(phrase=phrase))]

    def refuse_more_than_words(self, request: Request) -> None:
        """Raise UserError for anything but the mask and/or the box of what expressions describe."""
        if not request.want or not {"mask", "box"}.issuperset(request.want):
            wanted = " and ".join(request.want) or "nothing"
            raise UserError(f"{self.name} answers with a mask or a box, not with {wanted}; ask for those.")
        if request.mask is not None or request.box is not None or request.points:
            raise UserError(f"{self.name} is asked with words alone; give no mask, box or points.")
        if not request.expressions:
            raise UserError("A request has no expression; say what to segment.")

    def block(self, tokens: int | None) -> Block | None:
        """How this method writes a mask with a budget of tokens; None if it writes none."""
        return None

    @property
    def text_rows(self) -> int:
        """Vocabulary rows that may stand in text: all but the mask tokens, which come last."""
        return self.backbone.vocabulary

    def quantise(self) -> None:
        """Keep the weights of the language model's blocks as 8-bit integers from now on, for decoding only."""
        quantise(self.backbone.language_model)

    @torch.inference_mode()
    def segment(self, requests: Sequence[Request]) -> list[Prediction]:
        predictions: list[Prediction | None] = [None] * len(requests)
        for tokens in dict.fromkeys(request.tokens for request in requests):
            rows = [i for i, request in enumerate(requests) if request.tokens == tokens]
            for row, prediction in zip(rows, self._segment([requests[i] for i in rows], tokens), strict=True):
                predictions[row] = prediction
        return predictions

    def _segment(self, requests: Sequence[Request], tokens: int | None) -> list[Prediction]:
        clock = Clock(self.device, self.decoding)
        for request in requests:
            self.chat.check(request.expressions, f"The expression {' '.join(request.expressions)!r}")
        with clock.stage("preprocess"):
            images = {id(r.image) if not isinstance(r.image, Path) else r.image: r.image for r in requests}
            opened = {key: open_image(image) for key, image in images.items()}
            side = self.backbone.size.image_size
            tiles = {key: make_tiles(image, side, self.options.max_tiles) for key, image in opened.items()}
            pixels = torch.from_numpy(np.concatenate(list(tiles.values()))).to(self.device)
        with clock.stage("vision"):
            tokens_of_image = self._image_tokens(pixels, tiles)
        keys = [id(r.image) if not isinstance(r.image, Path) else r.image for r in requests]
        asked = [(i, *question) for i, request in enumerate(requests) for question in self.questions(request)]
        with clock.stage("preprocess"):
            prompts = [self._prompt(text, len(tiles[keys[i]]), requests[i]) for i, _, text in asked]
            prefix, rest = self._common_prefix(prompts, len(images))
            tokens_of_row = [tokens_of_image[keys[i]] for i, _, _ in asked]
            embeddings, valid = self._left_padded(rest, [] if prefix else tokens_of_row)
            shared = self._left_padded([prefix], tokens_of_row[:1])[0] if prefix else None
        answers = decode(
            self.backbone, embeddings, valid, self.chat.stop_id, self.block(tokens), self.text_rows, clock=clock,
            decoding=self.decoding, draft=self._draft([(requests[i], want) for i, want, _ in asked]), prefix=shared,
        )  # fmt: skip
        with clock.stage("resize"):
            predictions = [Prediction(np.zeros(opened[key].size[::-1], bool)) for key in keys]
            for (i, want, _), answer in zip(asked, answers, strict=True):
                self.read_answer(answer, want, predictions[i])
        for prediction in predictions:
            prediction.seconds = {stage: value / len(requests) for stage, value in clock.seconds.items()}
        return predictions

    def _image_tokens(self, pixels: Tensor, tiles: Mapping[Any, np.ndarray]) -> dict[Any, Tensor]:
        features = self.backbone.project(self.backbone.patches(pixels))
        counts = [len(tile) for tile in tiles.values()]
        return dict(zip(tiles, (part.flatten(0, 1) for part in features.split(counts)), strict=True))

    def _prompt(self, text: str, tiles: int, request: Request) -> list[int]:
        turns = [Turn("user", tasks.with_image(text, self.options.image_first))]
        return self.chat.encode(turns, tiles, reply=True)[0]

    def _common_prefix(self, prompts: list[list[int]], pictures: int) -> tuple[list[int], list[list[int]]]:
        """What all questions about one picture begin with, if the picture is in it, and the rests; else nothing."""
        whole = min(prompts, key=len)[:-1]
        same = next((i for i, ids in enumerate(zip(*prompts, strict=False)) if len(set(ids)) > 1), len(whole))
        last = max(i for i, token in enumerate(prompts[0]) if token == self.chat.image_id)
        if len(prompts) == 1 or pictures > 1 or same <= last or self.decoding.path == "reference":
            return [], prompts
        return whole[:same], [prompt[len(whole[:same]) :] for prompt in prompts]

    def expected(self, request: Request, want: tuple[str, ...]) -> str | None:
        """The fixed words of the answer to one of a request's questions, up to where they are no longer fixed, with
        `<mask>` in its place; None if they do not reach so far."""
        return None

    def _draft(self, asked: Sequence[tuple[Request, tuple[str, ...]]]) -> Draft | None:
        """What all answers of a batch are expected to say."""
        texts = {self.expected(*question) for question in asked}
        if len(texts) > 1 or None in texts:
            return None
        before, after = self.chat.reply(*texts)
        return Draft(before, after)

    def _left_padded(self, prompts: list[list[int]], image_tokens: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Prompt embeddings [B, L, D] and valid bool [B, L]."""
        length = max(map(len, prompts))
        ids = torch.tensor([[0] * (length - len(p)) + p for p in prompts], device=self.device)
        valid = torch.tensor([[False] * (length - len(p)) + [True] * len(p) for p in prompts], device=self.device)
        embeddings = self.backbone.embed(ids)
        if image_tokens:
            embeddings = self.backbone.place_images(embeddings, ids, torch.cat(image_tokens))
        return embeddings, valid

    def read_answer(self, answer: Answer, want: tuple[str, ...], prediction: Prediction) -> None:
        """Fill a prediction from a decoded answer; what is asked for and missing becomes its failure."""
        height, width = prediction.mask.shape
        text = self.answer_text(answer)
        prediction.text = f"{prediction.text}\n{text}".strip()
        prediction.steps = max(prediction.steps, answer.steps)  # the questions of a request share one batch
        failures = []
        if "box" in want:
            prediction.box = tasks.read_box(text, width, height, self.options.box_scale)
            if prediction.box is None:
                failures.append("no box in the answer")
        if "mask" in want:
            failures += self.read_mask(answer, prediction)
        if not answer.finished:
            failures.append("the answer was cut off")
        prediction.failure = "; ".join(filter(None, [prediction.failure, *failures])) or None

    def read_mask(self, answer: Answer, prediction: Prediction) -> list[str]:
        """Set the prediction's mask: the first one written, or without a codec the filled box. Returns what went
        wrong."""
        if self.codec is None:
            if prediction.box is not None:
                x1, y1, x2, y2 = (round(value) for value in prediction.box)
                prediction.mask[y1:y2, x1:x2] = True
            return []
        if not answer.masks:
            return ["no mask in the answer"]
        prediction.mask = self.full_mask(answer.masks[0], prediction.mask.shape)
        prediction.probabilities = answer.masks[0].float().cpu().numpy()
        prediction.token_ids = tuple(answer.mask_ids[0])
        return []

    def full_mask(self, probabilities: Tensor, size: tuple[int, int]) -> np.ndarray:
        """Bilinear weights before the threshold of 1/2, which loses less than resizing the finished mask."""
        soft = probabilities.float()[None, None]
        full = nn.functional.interpolate(soft, tuple(size), mode="bilinear", antialias=True)
        return (full[0, 0] > 0.5).cpu().numpy()

    def answer_text(self, answer: Answer) -> str:
        """The text with special tokens kept and `<mask>` where a block stood."""
        pieces, run = [], []
        for token in [*answer.text_ids, -1]:
            if token == -1:
                pieces.append(self.tokenizer.decode(run, skip_special_tokens=False))
                run = []
            else:
                run.append(token)
        return MASK.join(pieces)


def _padded(samples: Sequence[TrainingSample]) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Ids and labels [B, L], right-padded."""
    length = max(len(sample.ids) for sample in samples)
    ids = torch.zeros(len(samples), length, dtype=torch.long)
    labels = torch.full((len(samples), length), IGNORED)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
        labels[row, : len(sample.labels)] = torch.tensor(sample.labels)
    return ids, labels, {}


def _packed(samples: Sequence[TrainingSample]) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Ids, labels and positions [1, sum of L], and the lengths; the first token of a sample is never learned, so that
    nothing is predicted across a border."""
    ids = torch.cat([torch.tensor(sample.ids) for sample in samples])
    labels = torch.cat([torch.tensor([IGNORED, *sample.labels[1:]][: len(sample.ids)]) for sample in samples])
    positions = torch.cat([torch.arange(len(sample.ids)) for sample in samples])
    lengths = [len(sample.ids) for sample in samples]
    return ids[None], labels[None], {"positions": positions[None], "lengths": lengths}


def check_parts(parts: Mapping[str, Any], known: str, what: str) -> None:
    """Raise UserError for a part that would be ignored; `known` are names with blanks between them."""
    unknown = sorted(parts.keys() - {"seed", *known.split()})
    if unknown:
        raise UserError(f"parts.{unknown[0]} means nothing for a {what}; there are {', '.join(known.split())}.")


def made(kind: Callable[..., Any], values: Mapping[str, Any], name: str, *first: Any) -> Any:
    """kind(*first, **values). Raises UserError for a setting that it does not have."""
    known = list(inspect.signature(kind).parameters)[len(first) :]
    unknown = sorted(values.keys() - set(known))
    if unknown:
        raise UserError(f"parts.{name}.{unknown[0]} means nothing; there are {', '.join(known)}.")
    return kind(*first, **tuples(values))


def tuples(config: Mapping[str, Any]) -> dict[str, Any]:
    """JSON and YAML know no tuples; configurations are hashable, so lists become tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in dict(config).items()}
