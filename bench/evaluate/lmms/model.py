"""The model `genseg` of lmms-eval: a checkpoint of any method, asked questions about an image.

    lmms-eval --model genseg --model_args checkpoint=weights/HiMTok-8B,precision=bfloat16 --tasks pope ...

lmms-eval finds it by this package's entry point (bench/evaluate/lmms). Answers are greedy and not constrained, as in
the methods' official evaluations: mask tokens may stand in them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from lmms_eval.api.model import lmms

from bench.evaluate.lmms import TESTED
from bench.evaluate.lmms.questions import Question, batches, read_question
from bench.progress import Progress
from bench.runtime import answering_in, load_model, resolve_precision
from methods.base import Decoding, UserError
from methods.files import nearest, number, printable
from methods.registry import METHODS, method_of, method_spec


def in_one_sentence(function: Callable[..., Any]) -> Callable[..., Any]:
    """A mistake of the user's ends the run as in our own commands: lmms-eval would print a traceback and go on."""

    @wraps(function)
    def run(*given: Any, **named: Any) -> Any:
        try:
            return function(*given, **named)
        except UserError as error:
            print(f"genseg: {printable(error)}", file=sys.stderr, flush=True)
            sys.exit(2)

    return run


class Genseg(lmms):
    """A chat model of lmms-eval.

    checkpoint: the folder of a model, in our layout or an official one. mask_tokenizer: a file that stands in place of
    its own. precision: float32, bfloat16 or auto. tiles: that an image is cut into at most, None as the checkpoint has
    it. batch_size: questions at a time.
    """

    is_simple = False

    @in_one_sentence
    def __init__(
        self, checkpoint: str | int = "", precision: str = "float32", tiles: int | None = None,
        mask_tokenizer: str | None = None, batch_size: int | str = 1, device: str | None = None,
        max_batch_size: int | None = None, **unknown: Any,
    ):  # fmt: skip
        super().__init__()
        _check(checkpoint, unknown)
        folder = Path(str(checkpoint)).expanduser()
        name = method_of(folder)
        if "text" not in method_spec(name).wants:
            able = ", ".join(each for each in METHODS if "text" in method_spec(each).wants)
            raise UserError(f"{folder}: {name} answers no questions in words; give a model of {able}.")
        self.batch_size = int(number(batch_size, "batch_size", 1, 10**6, whole=True))
        self.tiles = None if tiles is None else int(number(tiles, "tiles", 1, 1024, whole=True))
        other = Path(mask_tokenizer).expanduser() if mask_tokenizer else None
        self.model = load_model(name, folder, precision, other, device or "auto")
        self.precision = resolve_precision(precision, self.model.device)

    @property
    def device(self) -> Any:
        """Where lmms-eval gathers the numbers of samples."""
        return self.model.device

    @in_one_sentence
    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answers' texts, special tokens included. All requests are looked at before the first is answered."""
        arguments = [request.args for request in requests]
        sampled = {str(given[4]) for given in arguments if not read_question(given, self.task_dict).greedy}
        answers: list[str] = []
        with Progress("lmms-eval", len(arguments), quiet=self.rank > 0) as progress:
            for task in sorted(sampled):
                progress.note(f"{task} asks for sampling or beams; the answers are greedy")
            for batch in batches((read_question(given, self.task_dict) for given in arguments), self.batch_size):
                answers += self._answers(batch)
                progress.advance(by=len(batch))
        return answers

    def _answers(self, batch: Sequence[Question]) -> list[str]:
        decoding = Decoding(constrained=False, most_tokens=batch[0].most_tokens)
        try:
            with answering_in(self.model, self.precision):
                found = self.model.segment([question.request(self.tiles) for question in batch], decoding)
        except UserError as error:
            raise UserError(f"{batch[0].where}{' and those after it' * (len(batch) > 1)}: {error}") from None
        return [question.answer(each.text) for question, each in zip(batch, found, strict=True)]

    @in_one_sentence
    def loglikelihood(self, requests: Sequence[Any]) -> NoReturn:
        raise UserError("A model here writes answers and rates none; give tasks of output_type generate_until.")

    @in_one_sentence
    def generate_until_multi_round(self, requests: Sequence[Any]) -> NoReturn:
        raise UserError("A model here answers single questions; give tasks of output_type generate_until.")


def _check(checkpoint: str | int, unknown: dict[str, Any]) -> None:
    """Raise UserError for a version of lmms-eval or arguments that do not fit."""
    found = version("lmms_eval")
    if found != TESTED:
        raise UserError(f"lmms-eval {found} is installed and its results do not compare; install lmms-eval=={TESTED}.")
    if unknown:
        known = ("checkpoint", "mask_tokenizer", "precision", "tiles", "batch_size", "device")
        name = next(iter(unknown))
        raise UserError(f"There is no argument {printable(repr(name), 80)} of the model{nearest(name, known)}.")
    if not str(checkpoint):
        raise UserError("No checkpoint is named; give --model_args checkpoint=FOLDER.")
