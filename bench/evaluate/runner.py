"""Predictions of methods, baselines and mask tokenizers, all in the same files and hence under the same scores."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.config import EvaluateConfig
from bench.data.dataset import Dataset
from bench.distributed import SINGLE_PROCESS, DistributedContext
from bench.evaluate import baselines
from bench.evaluate.cost import batch_of
from bench.evaluate.plan import Question, objects_of, plan
from bench.evaluate.predictions import line, settings_text, write_predictions
from bench.evaluate.protocols import asks, protocol_of, wanted_of
from bench.records import RECONSTRUCTION
from bench.runtime import answering_in, resolve_precision
from methods.base import DEFAULT, Decoding, Example, MaskTokenizer, Model, Prediction, Refiner, Request, mask_of
from methods.files import read_lines
from methods.images import open_image
from methods.protocols import TaskProtocol

NONE: Mapping[str, Path] = {}
Seconds = defaultdict[str, float]  # of each stage, added up
COARSE = "coarse"  # the mask of a refined line as it was before


@dataclass(frozen=True)
class Asked:
    """How a method is asked under one protocol.

    want: what is asked. tokens: mask tokens to write, where not all. spent: to which the seconds of each stage are
    added."""

    protocol: str
    rule: TaskProtocol
    want: tuple[str, ...]
    tokens: int | None
    decoding: Decoding
    precision: torch.dtype
    refiner: Refiner | None = None
    spent: Seconds = field(default_factory=lambda: defaultdict(float))

    def answer(self, method: Model, dataset: Dataset, questions: Sequence[Question]) -> list[dict[str, Any]]:
        """The answers to a batch of questions, as lines."""
        examples = [dataset[q.index] for q in questions]
        files = [dataset.image_file(q.index) for q in questions]
        requests = requests_of(examples, files, questions, self.rule, self.want, self.tokens)
        with answering_in(method, self.precision):
            predictions = method.segment(requests, self.decoding)
        lines = self._lines(examples, predictions, questions)
        if self.refiner is None:
            self._count(predictions)
            return lines
        for _, group in groupby(zip(requests, predictions, strict=True), key=lambda pair: id(pair[0].image)):
            pairs = list(group)
            official = self.rule.mask_resize if self.rule.mask_resize == "official" else ""
            self.refiner.refine(pairs[0][0].image, [p for _, p in pairs], official, bool(official))
        self._count(predictions)
        refined = self._lines(examples, predictions, questions)
        return [new | {COARSE: old["mask"]} for old, new in zip(lines, refined, strict=True)]

    def _count(self, predictions: Sequence[Prediction]) -> None:
        for prediction in predictions:
            for stage, seconds in prediction.seconds.items():
                self.spent[stage] += seconds

    def _lines(
        self, examples: Sequence[Example], predictions: Sequence[Prediction], questions: Sequence[Question]
    ) -> list[dict[str, Any]]:
        return [
            line(e, p, self.protocol, q.sent_id, q.expressions)
            for e, p, q in zip(examples, predictions, questions, strict=True)
        ]


def predict_method(
    method: Model, identity: dict[str, Any], dataset: Dataset, split: str, config: EvaluateConfig, folder: Path,
    want: tuple[str, ...] = (), decoding: Decoding = DEFAULT, rules: Mapping[str, TaskProtocol] | None = None,
    context: DistributedContext = SINGLE_PROCESS, refiner: Refiner | None = None, refined: Mapping[str, Path] = NONE,
    spent: Seconds | None = None,
) -> dict[str, Path]:  # fmt: skip
    """Ask a method every question of a split under every protocol -> protocol -> file.

    identity: what the answers depend on beside the configuration (name, digests of weights and data, `tokens` where
    masks are to be written with fewer than all, `rule` and `temperature` of decoding where not official, the digest of
    a `refiner`). split: as the files' names have it. want: what is asked where the protocol does not say; by default
    what the dataset scores. The method is asked for those of it that it offers.
    decoding: a protocol with another rule is left out, and so is one whose answers are not constrained where a number
    of tokens is requested. rules: of the protocols, where they are not the known ones. refiner: sharpens the masks.
    refined: the files that it made, of which this one has the masks before. spent: to which seconds per stage are
    added.
    """
    precision, paths = resolve_precision(config.precision, method.device), {}
    tokens, decoded = identity.get("tokens"), identity.get("rule")
    for protocol in config.protocols:
        rule = rules[protocol] if rules else protocol_of(protocol, dataset.task, identity["method"])
        way = rule.decoding(decoding)
        if way is None or (tokens and not rule.constrained):
            continue
        wanted = wanted_of(rule, want or dataset.wants, identity["method"])
        asked = Asked(
            protocol, rule, wanted, tokens, way, precision, refiner, defaultdict(float) if spent is None else spent
        )
        questions = plan(dataset, rule.sentences, config.limit, targets=bool(rule.prompt))
        batch = batch_of(config, len(questions))
        stamp = settings_text(
            **identity, split=split, protocol=protocol, limit=config.limit, batch=batch,
            precision=str(precision), asked=asked.want, told=asdict(rule),
        )  # fmt: skip
        kind = (f"-{tokens:03d}" if tokens else "") + (f"-{decoded}" if decoded else "")
        kind += "-refined" if refiner else ""
        path = folder / f"{identity['method']}.{split}.{protocol}{kind}.jsonl"
        if protocol in refined:
            before = [_before(row) for _, row in read_lines(refined[protocol])]
            paths[protocol] = write_predictions(path, stamp, before, batch, list, context)
        else:
            answer = partial(asked.answer, method, dataset)
            begun, known = time.perf_counter(), sum(asked.spent.values())
            paths[protocol] = write_predictions(path, stamp, questions, batch, answer, context)
            asked.spent["reading, writing, waiting"] += (
                time.perf_counter() - begun - (sum(asked.spent.values()) - known)
            )
    return paths


def _before(row: Mapping[str, Any]) -> dict[str, Any]:
    """A line of refined predictions as it was before."""
    return {name: row[COARSE] if name == "mask" else value for name, value in row.items() if name != COARSE}


def requests_of(
    examples: Sequence[Example], files: Sequence[Path | None], questions: Sequence[Question], rule: TaskProtocol,
    want: tuple[str, ...], tokens: int | None = None,
) -> list[Request]:  # fmt: skip
    """The requests of questions under a protocol. One that reads images in its own way reads the files as they are,
    each once, and wants masks at the size of the ground truth."""
    opened: dict[Path, Any] = {}
    requests = []
    for example, file, question in zip(examples, files, questions, strict=True):
        image, size = example.image, None
        if rule.image != "upright" and file is not None:
            size = example.mask.shape if example.mask is not None else None
            image = opened[file] if file in opened else opened.setdefault(file, open_image(file, rule.image))
        pointing = rule.prompt and rule.prompt_request(image, example, tokens)
        requests.append(pointing or rule.request(image, question.expressions, want, size, example.facts, tokens))
    return requests


def predict_baseline(
    name: str, identity: dict[str, Any], dataset: Dataset, split: str, config: EvaluateConfig, folder: Path,
    context: DistributedContext = SINGLE_PROCESS,
) -> dict[str, Path]:  # fmt: skip
    """The same for one of bench.evaluate.baselines."""
    paths = {}
    for protocol in [protocol for protocol in config.protocols if asks(protocol, dataset.task, name)]:

        def answer(questions: Sequence[Question], protocol: str = protocol) -> list[dict[str, Any]]:
            lines = []
            for q in questions:
                example = replace(dataset[q.index], expressions=q.expressions)
                prediction = baselines.predict(name, example, dataset.objects(example.image_id), config.seed)
                lines.append(line(example, prediction, protocol, q.sent_id, q.expressions))
            return lines

        stamp = settings_text(**identity, split=split, protocol=protocol, limit=config.limit, seed=config.seed)
        path = folder / f"{name.replace(':', '-')}.{split}.{protocol}.jsonl"
        questions = plan(dataset, protocol_of(protocol, dataset.task, name).sentences, config.limit)
        paths[protocol] = write_predictions(path, stamp, questions, 256, answer, context)
    return paths


def predict_reconstructions(
    mask_tokenizer: MaskTokenizer, identity: dict[str, Any], dataset: Dataset, split: str,
    config: EvaluateConfig, folder: Path, context: DistributedContext = SINGLE_PROCESS,
) -> dict[int, Path]:  # fmt: skip
    """The reconstruction bound: every true mask encoded and decoded from each of the mask tokenizer's prefixes, or the
    longest -> number of tokens -> file. Under 0 tokens the resize bound: masks on the tokenizer's grid and back."""
    targets = objects_of(dataset, plan(dataset, "per_object_joined", config.limit))
    paths = {}
    for tokens in (0, *(mask_tokenizer.prefixes if config.prefixes else mask_tokenizer.prefixes[-1:])):

        def answer(indices: Sequence[int], tokens: int = tokens) -> list[dict[str, Any]]:
            examples = [dataset[index] for index in indices]
            predictions = round_trip(mask_tokenizer, examples, tokens) if tokens else resized(mask_tokenizer, examples)
            pairs = zip(examples, predictions, strict=True)
            return [line(e, p, RECONSTRUCTION, -1, e.expressions[:1]) for e, p in pairs]

        stamp = settings_text(**identity, split=split, tokens=tokens, limit=config.limit)
        path = folder / f"{identity['method']}.{split}.{RECONSTRUCTION}-{tokens:03d}.jsonl"
        paths[tokens] = write_predictions(path, stamp, targets, 32, answer, context)
    return paths


@torch.inference_mode()
def round_trip(mask_tokenizer: MaskTokenizer, examples: Sequence[Example], tokens: int) -> list[Prediction]:
    """True masks through the mask tokenizer in `tokens` ids, brought back to each image's size."""
    views = torch.from_numpy(np.stack([mask_tokenizer.preprocess_mask(mask_of(e)) for e in examples]))[:, None]
    device = next((weights.device for weights in mask_tokenizer.parameters()), views.device)  # some have no weights
    ids = mask_tokenizer.encode(views.to(device), tokens)
    return [
        Prediction(mask=mask_tokenizer.postprocess_mask(probabilities, _shape(example)))
        for example, probabilities in zip(examples, mask_tokenizer.decode(ids), strict=True)
    ]


def resized(mask_tokenizer: MaskTokenizer, examples: Sequence[Example]) -> list[Prediction]:
    """True masks on the mask tokenizer's grid and back, without becoming tokens."""
    views = (torch.from_numpy(mask_tokenizer.preprocess_mask(mask_of(example))) for example in examples)
    return [
        Prediction(mask=mask_tokenizer.postprocess_mask(view, _shape(example)))
        for view, example in zip(views, examples, strict=True)
    ]


def _shape(example: Example) -> tuple[int, int]:
    height, width = mask_of(example).shape
    return height, width
