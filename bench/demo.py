"""A page in the browser that asks every method of a profile about a picture: `genseg demo`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from bench import pipeline
from bench.config import Profile
from bench.report.sheet import ANSWER, overlay
from bench.segment import check_expression, describe, knowledge, load, request_of
from methods.base import Method, UserError, open_image

EXAMPLES = 8
MOST_BYTES = "20mb"  # of an image that is uploaded


def serve(profile: Profile, port: int) -> None:
    """Load the profile's models and show the page on this machine until it is interrupted.

    Raises UserError without gradio, or if the port is taken.
    """
    gradio = _gradio()
    pipeline.prepare_data(profile, train=False)
    models = {name: load(name, pipeline.find_model(profile, name), profile.evaluate) for name in profile.models}
    shown = examples(pipeline.open_split(profile, "val"))
    page = build(gradio, models, shown, "\n".join([profile.description, *knowledge(profile)]))
    try:
        page.launch(
            server_name="127.0.0.1", server_port=port, share=False, max_file_size=MOST_BYTES,
            allowed_paths=[str(Path(path).resolve()) for path, _ in shown],
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"Port {port} cannot be used ({error}); give another with --port.") from None


def examples(dataset: Any) -> list[tuple[str, str]]:
    """(path of a picture, sentence) of the first pictures of a dataset."""
    first = [indices[0] for _, indices in dataset.by_image()[:EXAMPLES]]
    return [(str(dataset[index].image), dataset[index].expressions[0]) for index in first]


def ask(models: Mapping[str, Method], picture: str | Image.Image | None, expression: str) -> list[Image.Image | str]:
    """Each model's overlay and what there is to say of its answer, one after the other.

    Raises UserError without a picture or an expression, or for a file that is no image.
    """
    if picture is None:
        raise UserError("There is no picture; upload one or choose an example.")
    check_expression(expression)
    picture, shown = open_image(picture), []
    for model in models.values():
        prediction = model.segment([request_of(picture, expression)])[0]
        shown += [overlay(picture, prediction.mask, ANSWER, prediction.box), "\n".join(describe(prediction))]
    return shown


def build(gradio: Any, models: Mapping[str, Method], shown: Sequence[tuple[str, str]], description: str) -> Any:
    """The page: a picture and a sentence on the left, the methods' answers beside each other on the right."""

    def answer(picture: str | None, expression: str) -> list[Image.Image | str]:
        try:
            return ask(models, picture, expression)
        except UserError as error:
            raise gradio.Error(str(error), print_exception=False) from None

    with gradio.Blocks(title="genseg-bench", analytics_enabled=False) as page:
        gradio.Markdown(f"## {' and '.join(models)} write segmentation masks\n{description}")
        with gradio.Row():
            with gradio.Column(scale=1):
                picture = gradio.Image(type="filepath", label="picture")
                picture.preprocess = lambda upload: upload.path if upload else None  # `open_image` decides, not gradio
                expression = gradio.Textbox(label="what to segment", placeholder="the red car")
                button = gradio.Button("Segment", variant="primary")
            outputs = []
            for name in models:
                with gradio.Column(scale=1):
                    outputs.append(gradio.Image(label=name, interactive=False))
                    outputs.append(gradio.Textbox(label="answer", lines=4))
        gradio.Examples([list(pair) for pair in shown], [picture, expression])
        for event in (button.click, expression.submit):
            event(answer, [picture, expression], outputs)
    return page


def _gradio() -> Any:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError:
        raise UserError(
            "The demo needs gradio; install it with `pip install -e '.[demo]'` in this project's folder."
        ) from None
    return gradio
