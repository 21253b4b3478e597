"""Evaluation protocols as data: in whose words a benchmark's questions are put, and how answers are read.

A protocol has a rule for each task, a kind of benchmark: "segment" (referring expressions), "reason" (implied queries),
"ground" (expressions whose box is asked), "perceive" (which option fits a given mask) and "semantic" (classes). A file
of protocols is YAML: protocol -> task -> fields of TaskProtocol. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from methods.base import BOXES, MASK_RESIZES, RULES, Decoding, Example, Request, RequestOptions, UserError
from methods.files import fill, setting
from methods.images import READINGS

TASKS = ("segment", "reason", "ground", "perceive", "semantic")
SENTENCES = ("each", "joined", "first")
PROMPTS = ("box", "points", "mask")
ARITHMETIC = ("masks", "masks_ignored_hit", "boxes", "letters")
REPAIR = "see methods/protocols.py for the form"


@dataclass(frozen=True)
class TaskProtocol:
    """How one task is asked and read under a protocol. What is not said is left to the method and its checkpoint.

    want: what is asked; empty, what the benchmark scores; of either, only what the method offers. sentences: a sample's
    sentences are asked "each" by itself, all "joined" in one question, or the "first" alone.
    question: the user's words, with {sentences} for the sample's, each of them written as `sentence` (its slots:
    {sentence} and {number}, from 1 on); `question_of` has other words for samples whose facts say so (their "kind").
    repeat: how often the sentences are written. Without a question the method asks in its own words.
    prompt: what the user points with in place of words, taken from the ground truth: the "box", "points" (one, the
    farthest from the mask's edge) or the "mask"; "" where words are asked.
    image: how files are read (methods.images.open_image). rule: of decoding; empty, those of the evaluation's settings.
    The other fields are those of RequestOptions and Decoding.
    printed: the arithmetic of the official script's own figures, which stand beside ours: "masks" (foreground alone,
    epsilons), "masks_ignored_hit" (the same, ignored pixels count as hits), "boxes" (in float32) or "letters" (any
    letter in the text, else A); "" where there is none. thresholds: of IoU, that it prints boxes at. ends_without_mask:
    the script fails at an answer that has none.
    """

    want: tuple[str, ...] = ()
    sentences: str = setting("joined", choices=SENTENCES)
    question: str = ""
    question_of: Mapping[str, str] = field(default_factory=dict)
    sentence: str = "{sentence}"
    repeat: int = setting(1, 1, 9)
    prompt: str = setting("", choices=("", *PROMPTS))
    image: str = setting("upright", choices=READINGS)
    tiles: int | None = setting(None, 1, 64)
    letterbox: bool = False
    mask_resize: str = setting("", choices=("", *MASK_RESIZES))
    box: str = setting("strict", choices=BOXES)
    rule: str = setting("", choices=("", *RULES))
    constrained: bool = True
    most_tokens: int = setting(64, 1, 10**6)
    printed: str = setting("", choices=("", *ARITHMETIC))
    thresholds: tuple[float, ...] = setting((), 0, 1)
    ends_without_mask: bool = False

    def words(self, sentences: Sequence[str], facts: Mapping[str, Any]) -> str:
        """The question about these sentences; "" if the method has to find the words. facts: of the sample; of a "kind"
        that is a list along its sentences the first counts."""
        kind = facts.get("kind")
        kind = kind[0] if isinstance(kind, list | tuple) and kind else kind
        template = self.question_of.get(str(kind), self.question)
        if not template:
            return ""
        numbered = enumerate(tuple(sentences) * self.repeat, 1)
        written = (_filled(self.sentence, sentence=text, number=str(number)) for number, text in numbered)
        return _filled(template, sentences="".join(written))

    def request(
        self, image: Any, sentences: Sequence[str], want: tuple[str, ...], size: tuple[int, int] | None = None,
        facts: Mapping[str, Any] | None = None, tokens: int | None = None,
    ) -> Request:  # fmt: skip
        """The request about these sentences. want: as `wanted` gives it; size: (H, W) of the ground truth where it may
        not be the image's."""
        options = RequestOptions(
            self.words(sentences, facts or {}), size, self.tiles, self.letterbox, self.mask_resize, self.box
        )
        return Request(image, tuple(sentences), want, tokens, self.sentences == "joined", options=options)

    def wanted(self, scored: tuple[str, ...], offered: tuple[str, ...]) -> tuple[str, ...]:
        """What a request asks of a method. scored: by the benchmark; offered: MethodSpec.wants."""
        return tuple(each for each in self.want or scored if each in offered)

    def prompt_request(self, image: Any, example: Example, tokens: int | None = None) -> Request:
        """The request that points at an example's object. Raises UserError for one that has none."""
        mask = example.mask
        if mask is None or not mask.any():
            where = f"{example.dataset} sample {example.ref_id}"
            raise UserError(f"{where}: has no mask that a prompt could be taken from; leave it out.")
        options = RequestOptions(
            "", (mask.shape[0], mask.shape[1]), self.tiles, self.letterbox, self.mask_resize, self.box
        )
        request = Request(image, (), self.want, tokens, options=options)
        if self.prompt == "box":
            return replace(request, box=example.box or _box_around(mask))
        return replace(request, points=(_inmost(mask),)) if self.prompt == "points" else replace(request, mask=mask)

    def decoding(self, given: Decoding) -> Decoding | None:
        """The evaluation's way of decoding under this protocol; None if the protocol has another rule."""
        if self.rule not in ("", given.rule):
            return None
        return replace(given, constrained=self.constrained, most_tokens=self.most_tokens)


def _box_around(mask: np.ndarray) -> tuple[float, float, float, float]:
    """xyxy of bool [H, W] with a true pixel."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _inmost(mask: np.ndarray) -> tuple[float, float]:
    """(x, y) of the centre of the pixel of bool [H, W] that is farthest from the others; of several the first."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(column) + 0.5, float(row) + 0.5


def _filled(template: str, **slots: str) -> str:
    """Slots in braces replaced; whatever else a text has in braces stays as it is."""
    for name, text in slots.items():
        template = template.replace(f"{{{name}}}", text)
    return template


def load_protocols(path: Path) -> dict[str, dict[str, TaskProtocol]]:
    """Protocol -> task -> rule, of a file. Raises UserError naming the first entry that is wrong."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a file of protocols ({' '.join(str(error).split())}); {REPAIR}.") from None
    if not isinstance(content, dict) or not all(isinstance(tasks, dict) for tasks in content.values()):
        raise UserError(f"{path}: not a file of protocols, each with its tasks; {REPAIR}.")
    found: dict[str, dict[str, TaskProtocol]] = {}
    for protocol, tasks in content.items():
        for task, row in tasks.items():
            where = f"{path}: {protocol}: {task}"
            if task not in TASKS:
                raise UserError(f"{where}: there is no such task; known are {', '.join(TASKS)}.")
            found.setdefault(str(protocol), {})[task] = fill(TaskProtocol, row, where, REPAIR)
    return found
