"""One image, one sentence, one mask; or a list of them and a grid of all methods' answers: `genseg segment`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from bench.config import EvaluateConfig, Profile
from bench.data.mixture import embedded
from bench.outputs import check_free, write_image
from bench.report.qualitative_grid import ANSWER, draw_answers, overlay
from bench.runtime import device_of
from bench.train.models import find_model
from methods.base import Box, Decoding, Model, Prediction, Request, UserError
from methods.files import check_text, numbered_lines, read_text
from methods.images import open_image
from methods.registry import method_class, method_spec, resolve


@dataclass(frozen=True)
class Asked:
    """What a user asks about an image: its words; or a box (x1, y1, x2, y2), points or a mask (a file of an image) in
    place of them. tokens: mask tokens to write."""

    expression: str = ""
    box: Box | None = None
    points: tuple[tuple[float, float], ...] = ()
    mask: Path | None = None
    tokens: int | None = None

    def request(self, image: Image.Image) -> Request:
        """For words the mask and the box; the mask of what a box or points show; the box of a mask."""
        if self.expression:
            return replace(request_of(image, self.expression), tokens=self.tokens)
        given = {"box": self.box, "points": self.points, "mask": self.mask and mask_in(self.mask)}
        return Request(image, (), ("mask",) if self.mask is None else ("box",), self.tokens, **given)

    def __str__(self) -> str:
        told = {"box": self.box, "points": self.points, "mask": self.mask}
        return repr(self.expression) if self.expression else next(f"{k} {v}" for k, v in told.items() if v)


def segment_file(
    profile: Profile, image: Path, asked: Asked, method: str, out: Path, checkpoint: Path | None,
    refine: Path | None = None,
) -> Iterator[str]:  # fmt: skip
    """Write the overlay to `out` and yield lines for the user: the answer, the box, where the time went.

    refine: what sharpens the mask. Raises UserError for a file that is no image, an empty sentence, a method that the
    profile lacks, or something that the method is not asked.
    """
    if asked.box is None and not asked.points and asked.mask is None:
        check_expression(asked.expression)
    if checkpoint is None and method not in profile.models:
        raise UserError(f"Profile {profile.name} has no model of {method!r}; choose {' or '.join(profile.models)}.")
    reference = method_spec(method).refiner or ""
    if refine is not None and not reference:
        raise UserError(f"{method}: masks cannot be refined; leave --refine out.")
    check_free(out, tuple(filter(None, (image, asked.mask))))
    opened = open_image(image)
    folder = checkpoint or find_model(profile, method)
    request, model = asked.request(opened), load(method, folder)
    refiner = resolve(reference).from_pretrained(refine).to(device_of()) if refine is not None else None
    prediction = model.segment([request], timed(profile.evaluate))[0]
    if refiner is not None:
        refiner.refine(opened, [prediction])
    mask = prediction.mask if request.mask is None else request.mask
    write_image(overlay(opened, mask, ANSWER, prediction.box), out)
    yield f"{out}: {asked} by {method} ({folder})"
    yield from describe(prediction)
    if checkpoint is None:
        yield from knowledge(profile)


def mask_in(path: Path) -> np.ndarray:
    """bool [H, W] of an image of a mask: what is brighter than mid-grey."""
    return np.asarray(open_image(path).convert("L")) > 127


def load(method: str, folder: Path) -> Model:
    """The model in a folder, on the device."""
    return method_class(method).from_pretrained(folder).to(device_of())


def timed(config: EvaluateConfig) -> Decoding:
    """By the first of the profile's rules; it tells truly, on a GPU too, how long each stage took."""
    return Decoding(timing="stages", rule=config.decode_rules[0], temperature=config.temperature)


def describe(prediction: Prediction) -> Iterator[str]:
    """A line each on the mask, the box if there is one, the time per stage, and what the answer lacks."""
    share = float(prediction.mask.mean())
    if prediction.token_ids or not prediction.box:
        yield f"mask: {share:.1%} of the image in {len(prediction.token_ids)} tokens, {prediction.steps} model steps"
    if prediction.box:
        yield "box: " + ", ".join(f"{value:.0f}" for value in prediction.box) + " (x1, y1, x2, y2 in pixels)"
    yield "time: " + ", ".join(f"{stage} {1e3 * value:.0f} ms" for stage, value in prediction.seconds.items())
    if prediction.failure:
        yield f"incomplete answer: {prediction.failure}"


def knowledge(profile: Profile) -> Iterator[str]:
    """A line on what the profile's models can know, if they have seen nothing but scenes that were drawn here."""
    if embedded(profile.data.dataset) and not profile.data.mixture and not profile.size:
        yield (
            f"note: the models of profile {profile.name} have seen synthetic scenes of {profile.data.dataset} only; "
            "their masks on a photograph are meaningless"
        )


def segment_list(profile: Profile, questions: Path, out: Path) -> Iterator[str]:
    """Answer lines "image<tab>expression" with every method of the profile; write the grid to `out`.

    Raises UserError, naming the line, for one that has another form or a file that is no image.
    """
    lines = numbered_lines(read_text(questions, "give a text file of image<tab>expression"))
    check_free(out, (questions,))
    asked = []
    for number, line in lines:
        path, tab, expression = line.partition("\t")
        if not tab:
            raise UserError(f"{questions}, line {number}: no tab between image and expression; put one there.")
        check_expression(expression, f"{questions}, line {number}: the expression")
        asked.append((open_image(Path(path.strip())), expression.strip()))
    if not asked:
        raise UserError(f"{questions}: holds no questions; write lines of image<tab>expression.")
    answers = {}
    for name in profile.models:
        model = load(name, find_model(profile, name))
        answers[name] = [model.segment([request_of(*question)], timed(profile.evaluate))[0] for question in asked]
    write_image(draw_answers(asked, answers), out)
    yield f"{out}: {len(asked)} questions to {' and '.join(answers)}"
    yield from knowledge(profile)


def check_expression(expression: str, what: str = "The expression") -> None:
    """Raises UserError if there are no words, or bytes that are no text."""
    check_text(expression, what)
    if not expression.strip():
        raise UserError(f'{what} is empty; describe one thing in the image, e.g. "the red car".')


def request_of(image: Image.Image, expression: str) -> Request:
    """Mask and box of what a user's own words describe, in lower case as datasets have them."""
    return Request(image, (expression.strip().lower(),), ("mask", "box"))
