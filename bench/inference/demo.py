"""A page in the browser that asks every method of a profile about an image: `genseg demo`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from bench.config import Profile
from bench.data.splits import open_split, own_benchmark
from bench.inference.segment import check_expression, describe, knowledge, load, request_of, timed
from bench.refmoji.prepare import prepare_data
from bench.report.qualitative_grid import ANSWER, overlay
from bench.train.models import find_models
from methods.base import DEFAULT, Decoding, Model, UserError
from methods.images import open_image

EXAMPLES = 8
MOST_BYTES = "20mb"  # of an image that is uploaded


def serve(profile: Profile, port: int) -> None:
    """Load the profile's models and show the page on this machine until it is interrupted.

    Raises UserError without gradio, or if the port is taken.
    """
    gradio = _gradio()
    prepare_data(profile, train=False)
    models = {name: load(name, folder) for name, folder in find_models(profile).items()}
    shown = examples(open_split(own_benchmark(profile), "val"))
    page = build(gradio, models, shown, profile)
    try:
        page.launch(
            server_name="127.0.0.1", server_port=port, share=False, max_file_size=MOST_BYTES,
            allowed_paths=[str(Path(path).resolve()) for path, _ in shown],
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"Port {port} cannot be used ({error}); give another with --port.") from None


def examples(dataset: Any) -> list[tuple[str, str]]:
    """(path of an image, sentence) of the first images of a dataset."""
    first = [indices[0] for _, indices in dataset.by_image()[:EXAMPLES]]
    return [(str(dataset[index].image), dataset[index].expressions[0]) for index in first]


def ask(
    models: Mapping[str, Model], image: str | Image.Image | None, expression: str, decoding: Decoding = DEFAULT
) -> list[Image.Image | str]:
    """Each model's overlay and what there is to say of its answer, one after the other.

    Raises UserError without an image or an expression, or for a file that is no image.
    """
    if image is None:
        raise UserError("There is no image; upload one or choose an example.")
    check_expression(expression)
    image, shown = open_image(image), []
    for model in models.values():
        prediction = model.segment([request_of(image, expression)], decoding)[0]
        shown += [overlay(image, prediction.mask, ANSWER, prediction.box), "\n".join(describe(prediction))]
    return shown


def build(gradio: Any, models: Mapping[str, Model], shown: Sequence[tuple[str, str]], profile: Profile) -> Any:
    """The page: an image and a sentence on the left, the methods' answers beside each other on the right."""

    def answer(image: str | None, expression: str) -> list[Image.Image | str]:
        try:
            return ask(models, image, expression, timed(profile.evaluate))
        except UserError as error:
            raise gradio.Error(str(error), print_exception=False) from None

    with gradio.Blocks(title="genseg-bench", analytics_enabled=False) as page:
        told = "\n".join([profile.description, *knowledge(profile)])
        gradio.Markdown(f"## {' and '.join(models)} write segmentation masks\n{told}")
        with gradio.Row():
            with gradio.Column(scale=1):
                image = gradio.Image(type="filepath", label="image")
                image.preprocess = lambda upload: upload.path if upload else None  # `open_image` decides, not gradio
                expression = gradio.Textbox(label="what to segment", placeholder="the red car")
                button = gradio.Button("Segment", variant="primary")
            outputs = []
            for name in models:
                with gradio.Column(scale=1):
                    outputs.append(gradio.Image(label=name, interactive=False))
                    outputs.append(gradio.Textbox(label="answer", lines=4))
        gradio.Examples([list(pair) for pair in shown], [image, expression])
        for event in (button.click, expression.submit):
            event(answer, [image, expression], outputs)
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
