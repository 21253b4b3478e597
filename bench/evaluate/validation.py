"""What a model in training scores on the first samples of the validation split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from bench.config import Profile, StageConfig
from bench.data.boxes import box_iou
from bench.data.cards import load_card
from bench.data.splits import open_split, own_benchmark
from bench.evaluate.plan import plan
from bench.evaluate.protocols import wanted_of
from bench.evaluate.reconstruction import shape_ious
from bench.evaluate.runner import round_trip
from bench.evaluate.shapes import shape_test
from methods.base import Example, Prediction, Request, Trainee
from methods.protocols import TaskProtocol
from methods.registry import stage_spec

SHAPES = 20  # masks of each kind of the shape test
BATCH = 16
Measure = Callable[[Trainee], dict[str, float]]


def validation(profile: Profile, stage: StageConfig) -> Measure | None:
    """A function that measures a method, without touching training; None if the dataset has no such split or no samples
    are wanted.

    Stages that train a mask tokenizer are measured by its reconstructions, also of the shape test's masks, the others
    by their answers. Raises UserError now, not when the first validation is due, if a sample cannot be used.
    """
    split, count = profile.train.validate_split, profile.train.validate_samples
    if not count or split not in load_card(profile.data.dataset).splits:
        return None
    alone = stage_spec(stage.method, stage.stage).mask_tokenizer
    dataset = open_split(own_benchmark(profile), split, with_images=not alone)
    questions = plan(dataset, "per_expression", 3 * count)[::3][:count]
    dataset.check([question.index for question in questions])
    want = wanted_of(TaskProtocol(), ("mask", "box"), stage.method)
    shapes = shape_test(SHAPES) if alone else []

    def measure(method: Any) -> dict[str, float]:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        with torch.random.fork_rng(devices=[]), torch.autocast(device, enabled=False):
            examples = [dataset[question.index] for question in questions]
            if alone:
                values = _overlap(round_trip(method.mask_tokenizer, examples, method.mask_tokenizer.length), examples)
                kinds = shape_ious(method.mask_tokenizer, shapes)
                return values | {f"shapes/{kind}": float(iou.mean()) for kind, iou in kinds.items()}
            pairs = zip(examples, questions, strict=True)
            requests = [Request(example.image, q.expressions, want) for example, q in pairs]
            answers = [p for i in range(0, len(requests), BATCH) for p in method.segment(requests[i : i + BATCH])]
            failures = {"failures": float(sum(p.failure is not None for p in answers))}
            return _overlap(answers, examples) | (_boxes(answers, examples) if "box" in want else {}) | failures

    return measure


def _overlap(predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, float]:
    pairs = list(zip(predictions, examples, strict=True))
    inter = np.array([(p.mask & e.mask).sum() for p, e in pairs])
    union = np.array([(p.mask | e.mask).sum() for p, e in pairs])
    # an empty mask agrees with an empty ground truth only if it was written
    answered = np.array([p.failure is None or bool(p.token_ids) for p in predictions], float)
    iou = np.where(union > 0, inter / np.maximum(1, union), answered)
    return {"ciou": float(inter.sum() / max(1, union.sum())), "giou": float(iou.mean())}


def _boxes(predictions: Sequence[Prediction], examples: Sequence[Example]) -> dict[str, float]:
    found = np.array([box_iou(p.box, e.box) for p, e in zip(predictions, examples, strict=True)])
    return {f"acc@{threshold}": float((found >= threshold).mean()) for threshold in (0.5, 0.7, 0.9)}
