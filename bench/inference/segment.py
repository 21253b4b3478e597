"""One image, one sentence, one mask; or a list of them and a grid of all methods' answers: `genseg segment`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from bench.config import EvaluateConfig, Profile
from bench.data.mixture import embedded
from bench.outputs import check_free, write_image
from bench.report.qualitative_grid import ANSWER, draw_answers, overlay
from bench.runtime import device_of
from bench.train.models import find_model
from methods.base import Decoding, Model, Prediction, Request, UserError, open_image
from methods.files import check_text, numbered_lines, read_text
from methods.registry import method_class


def segment_file(
    profile: Profile, image: Path, expression: str, method: str, out: Path, checkpoint: Path | None
) -> Iterator[str]:
    """Write the overlay to `out` and yield lines for the user: the answer, the box, where the time went.

    Raises UserError for a file that is no image, an empty sentence, or a method that the profile lacks.
    """
    check_expression(expression)
    if checkpoint is None and method not in profile.models:
        raise UserError(f"Profile {profile.name} has no model of {method!r}; choose {' or '.join(profile.models)}.")
    check_free(out, (image,))
    opened = open_image(image)
    folder = checkpoint or find_model(profile, method)
    request = request_of(opened, expression)
    prediction = load(method, folder).segment([request], timed(profile.evaluate))[0]
    write_image(overlay(opened, prediction.mask, ANSWER, prediction.box), out)
    yield f"{out}: {expression!r} by {method} ({folder})"
    yield from describe(prediction)
    if checkpoint is None:
        yield from knowledge(profile)


def load(method: str, folder: Path) -> Model:
    """The model in a folder, on the device."""
    return method_class(method).from_pretrained(folder).to(device_of())


def timed(config: EvaluateConfig) -> Decoding:
    """By the first of the profile's rules; it tells truly, on a GPU too, how long each stage took."""
    return Decoding(timing="stages", rule=config.decode_rules[0], temperature=config.temperature)


def describe(prediction: Prediction) -> Iterator[str]:
    """A line each on the mask, the box if there is one, the time per stage, and what the answer lacks."""
    share = float(prediction.mask.mean())
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
