"""Reference runs of released evaluations: `genseg parity DIR` repeats them through this project's own evaluation.

DIR holds checkpoint/ (an official layout, of any size), data/, and expected/results.json with, for each run, its
`command`, the lines that the script `printed`, and per sample what it asked, read, wrote and counted; tensors of masks
lie beside it. Where such a script finds its files stands in official_runs.yaml; how it asks and reads is the method's
protocol "official".
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import load_file

from bench.config import EvaluateConfig
from bench.data.dataset import Dataset
from bench.data.readers import READERS
from bench.evaluate import official_checks as compare
from bench.evaluate.metrics import aggregate
from bench.evaluate.metrics.registry import value_of
from bench.evaluate.official_checks import Answered
from bench.evaluate.plain_tasks import PLAIN, columns, figures_of
from bench.evaluate.plan import plan
from bench.evaluate.printed import printed
from bench.evaluate.protocols import protocol_of
from bench.evaluate.runner import predict_method
from bench.evaluate.scoring import score_row
from methods.base import DEFAULT, Decoding, Example, Model, Prediction, Request, UserError
from methods.check import Check
from methods.files import fill, read_lines, read_object
from methods.protocols import TaskProtocol
from methods.registry import method_class, method_of, method_spec, resolve

RESULTS, CHECKPOINT = Path("expected", "results.json"), "checkpoint"
SCRIPTS = Path(__file__).with_name("official_runs.yaml")
REPAIR = "copy the folder of reference runs again"
TILES, LETTERBOX = ("--max-num", "--dynamic_image_size"), "--pad2square"  # options of the scripts


def recognises(folder: Path) -> bool:
    """Whether the folder holds reference runs of a released evaluation."""
    return (folder / RESULTS).is_file() and (folder / CHECKPOINT).is_dir()


def check(folder: Path) -> list[Check]:
    """Every run of the folder, repeated with one sample at a time, as the scripts take them."""
    results, name = read_object(folder / RESULTS, REPAIR), method_of(folder / CHECKPOINT)
    maker = method_spec(name).reference_model
    model = resolve(maker)(folder) if maker else method_class(name).from_pretrained(folder / CHECKPOINT)
    tensors: dict[str, np.ndarray] = {}
    for path in sorted((folder / RESULTS).parent.glob("*.safetensors")):
        tensors |= load_file(path)
    checks = []
    for run, row in results["datasets"].items():
        command = Command.of(row["command"])
        own = {key.removeprefix(f"{run}."): value for key, value in tensors.items() if key.startswith(f"{run}.")}
        found = _repeated(model, name, run, command.dataset(folder), command.rule(name), row, own)
        checks += [each._replace(name=f"{run}: {each.name}") for each in found]
    return checks


def _repeated(
    model: Any, name: str, run: str, dataset: Dataset, rule: TaskProtocol, row: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
) -> list[Check]:  # fmt: skip
    if len(dataset) != len(row["samples"]):
        return [Check("samples", len(dataset), len(row["samples"]), False)]
    answers = _answers(model, name, run, dataset, rule, row["samples"])
    lines, examples = [answer.line for answer in answers], [answer.example for answer in answers]
    ours = printed(rule, lines, examples)
    checks = [*compare.asked(model.inputs, answers), *compare.written(answers, tensors.get("visual_ids"))]
    if rule.printed.startswith("masks"):
        checks += compare.masks(answers, _soft(tensors), rule.printed == "masks_ignored_hit")
    elif rule.printed == "boxes":
        checks += compare.boxes(answers)
    return [*checks, *compare.figures(row, ours, _honest(dataset.task, lines, examples), answers)]


def _honest(task: str, lines: Sequence[Mapping[str, Any]], examples: Sequence[Example]) -> Mapping[str, float]:
    """The figures of the same answers by this project's own rules."""
    pairs = list(zip(lines, examples, strict=True))
    if task in PLAIN:
        table = columns([figures_of(task, *pair) for pair in pairs])
        return {name: value_of(*each) for name, each in table.items()}
    return aggregate([score_row(*pair, box_asked=False) for pair in pairs])


def _soft(tensors: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Soft masks [n, 64, 64]: probabilities, or the grey of images [n, 3, 64, 64] in -1..1."""
    if "picture_every_4th" in tensors:
        return (tensors["picture_every_4th"].astype(np.float32).clip(-1, 1).mean(1) + 1) / 2
    return tensors.get("probability_every_4th")


def _answers(
    model: Model, name: str, run: str, dataset: Dataset, rule: TaskProtocol, samples: Sequence[Mapping[str, Any]]
) -> list[Answered]:
    """Our answers, in the order of the samples."""
    config = EvaluateConfig(protocols=["official"], batch=1)
    watched: Any = Watched(model)
    identity = {"method": name, "data": dataset.digest()}
    with tempfile.TemporaryDirectory() as place:
        (path,) = predict_method(
            watched, identity, dataset, run, config, Path(place), rules={"official": rule}
        ).values()
        lines = [line for _, line in read_lines(path)]
    found = {}
    for question, line, (request, prediction) in zip(plan(dataset, rule.sentences), lines, watched.seen, strict=True):
        index = question.index
        found[index] = Answered(samples[index], line, request, prediction, dataset[index])
    return [found[index] for index in sorted(found)]


class Watched:
    """A model whose answers are kept as it gave them."""

    def __init__(self, model: Model):
        self.model, self.device = model, model.device
        self.seen: list[tuple[Request, Prediction]] = []

    def segment(self, requests: Sequence[Request], decoding: Decoding = DEFAULT) -> list[Prediction]:
        predictions = self.model.segment(requests, decoding)
        self.seen += zip(requests, predictions, strict=True)
        return predictions


# ---- commands -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Script:
    """Where a script finds its files: the reader of its form, the file, which may be named by an option, and the folder
    of its images, likewise. tiled: the option without which it cuts no image into tiles, if it has one."""

    task: str
    reader: str
    file: str
    images: str = ""
    tiled: str = ""


@cache
def scripts() -> dict[str, Script]:
    """Every known script by its path in the release."""
    rows = yaml.safe_load(SCRIPTS.read_text(encoding="utf-8"))
    return {path: fill(Script, row, f"{SCRIPTS}: {path}", "correct the file") for path, row in rows.items()}


@dataclass(frozen=True)
class Command:
    """One run of a script with its options."""

    script: Script
    options: Mapping[str, str]

    @classmethod
    def of(cls, words: Sequence[str]) -> Command:
        """From the words of a command line. Raises UserError for an unknown script."""
        path = next((word for word in words if word.endswith(".py")), "")
        if path not in scripts():
            raise UserError(f"{path!r} is no known script of a released evaluation; known are {', '.join(scripts())}.")
        pairs = zip(words, [*words[1:], ""], strict=True)
        return cls(scripts()[path], {word: value for word, value in pairs if word.startswith("--")})

    def dataset(self, folder: Path) -> Dataset:
        """What the run read."""
        name, _, split = self.options.get("--datasets", "").rpartition("_")
        place = self.options.get(self.script.file, self.script.file).format(dataset=name, split=split)
        images = self.options.get(self.script.images, self.script.images)
        given = {"images": folder / images} if images else {}
        reader: Callable[..., Dataset] = READERS[self.script.reader]
        return reader(folder / place, split, **given)

    def rule(self, method: str) -> TaskProtocol:
        """How the run asked: the method's own protocol with the options of the command."""
        rule = protocol_of("official", self.script.task, method)
        tiles = next((int(self.options[option]) for option in TILES if option in self.options), rule.tiles)
        tiles = 1 if self.script.tiled and self.script.tiled not in self.options else tiles
        return replace(rule, tiles=tiles, letterbox=self.options.get(LETTERBOX) == "True")
