"""A qualitative grid: image, expression, ground truth where it is known, and one column per method with its mask.

Drawn from lines of scores (they carry the masks) and the dataset's images. The samples are chosen by a fixed rule,
evenly over the first method's IoU, so that it shows failures as well as successes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bench.data import rle
from bench.data.dataset import Dataset
from bench.report.names import method_name
from methods.base import Example, Prediction, UserError
from methods.images import open_image

Row = Mapping[str, Any]
TRUTH, ANSWER, BOX = (0, 158, 115), (213, 94, 0), (0, 114, 178)  # Okabe and Ito's green, vermilion, blue
CELL = 224  # pixels of an image's longer side
GAP = 8
ROWS = 512  # of an image that are tinted at a time
TEXT = 15  # height of a line of text


def choose(methods: Mapping[str, Sequence[Row]], count: int) -> list[dict[str, Row]]:
    """`count` questions that every method answered, spread evenly over the first method's IoU, best first.

    -> one dict per question: method -> its line.
    """
    by_key = [{_key(row): row for row in rows} for rows in methods.values()]
    shared = [key for key in by_key[0] if all(key in table for table in by_key)]
    shared.sort(key=lambda key: (-by_key[0][key]["iou"], key))
    picks = np.unique(np.linspace(0, len(shared) - 1, min(count, len(shared))).round().astype(int)) if shared else []
    return [{name: table[shared[i]] for name, table in zip(methods, by_key, strict=True)} for i in picks]


def draw_grid(methods: Mapping[str, Sequence[Row]], dataset: Dataset, count: int = 8) -> Image.Image | None:
    """The grid; None when no question was answered by all methods.

    methods: label -> lines of scores of one split and protocol. Raises UserError for a reference not in the dataset.
    """
    questions = choose(methods, count)
    if not questions:
        return None
    wanted = {str(row["ref_id"]) for question in questions for row in question.values()}
    places = {str(dataset.info(index).ref_id): index for index in range(len(dataset))}
    examples = {reference: dataset[places[reference]] for reference in wanted & places.keys()}
    for reference in sorted(wanted - examples.keys()):
        raise UserError(f"There is no reference {reference}; run `genseg eval` on these data again.")
    lines = [_line(question, examples[_key(_first(question))[0]]) for question in questions]
    return stack([header(["ground truth", *map(method_name, methods)]), *lines])


def draw_answers(
    questions: Sequence[tuple[Image.Image, str]], answers: Mapping[str, Sequence[Prediction]]
) -> Image.Image:
    """The grid of questions without a ground truth, (image, expression) each: a column per method."""
    lines = []
    for number, (image, expression) in enumerate(questions):
        cells = [cell(image, wrapped(f"“{expression}”"))]
        for predictions in answers.values():
            mask, box, failure = (getattr(predictions[number], name) for name in ("mask", "box", "failure"))
            cells.append(cell(overlay(image, mask, ANSWER, box), wrapped(failure or "")))
        lines.append(side_by_side(cells))
    return stack([header([method_name(name) for name in answers]), *lines])


def overlay(image: Image.Image, mask: np.ndarray, colour: tuple[int, int, int], box: Any = None) -> Image.Image:
    """The mask tinted and outlined, the rest of the image faded to grey, and the written box if there is one."""
    thick = 2 * max(1, round(max(image.size) / CELL))  # so that two pixels are left of it in the cell
    outline, pixels = _outline(mask, thick), np.array(image, np.uint8)
    for row in range(0, len(pixels), ROWS):  # floats of a whole large image would take gigabytes
        part = slice(row, row + ROWS)
        pixels[part] = _tint(pixels[part].astype(np.float32), mask[part], outline[part], colour)
    drawn = Image.fromarray(pixels)
    if box:
        left, top, right, bottom = box
        corners = (min(left, right), min(top, bottom), max(left, right) - 1, max(top, bottom) - 1)
        if corners[0] <= corners[2] and corners[1] <= corners[3]:
            ImageDraw.Draw(drawn).rectangle(corners, outline=BOX, width=thick)
    return drawn


def _outline(mask: np.ndarray, thick: int) -> np.ndarray:
    """The pixels of a mask [H, W] that are at most `thick` steps, up, down or sideways, from its outside, which begins
    at the image's edge; linear in the number of pixels."""
    steps = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L1, 3)[1:-1, 1:-1]
    return mask & (steps <= thick)


def _tint(pixels: np.ndarray, mask: np.ndarray, outline: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """float32 [H, W, 3] -> uint8 of the same shape: grey outside the mask, tinted in it, `colour` on its outline."""
    faded = 0.4 * pixels @ np.array([0.299, 0.587, 0.114], np.float32) + 0.6 * 245
    tinted = 0.7 * pixels + 0.3 * np.array(colour, np.float32)
    pixels = np.where(mask[..., None], tinted, faded[..., None])
    pixels[outline] = colour
    return pixels.round().astype(np.uint8)


def _key(row: Row) -> tuple[str, str]:
    return str(row["ref_id"]), str(row.get("sent_id"))


def _first(question: Mapping[str, Row]) -> Row:
    return next(iter(question.values()))


def _line(question: Mapping[str, Row], example: Example) -> Image.Image:
    """One question: the image, the truth, every answer; the expression below the image."""
    image = open_image(example.image)
    cells = [
        cell(image, wrapped(f"“{_first(question).get('expression', '')}”")),
        cell(overlay(image, example.mask, TRUTH), ["ground truth"]),
    ]
    for row in question.values():
        caption = [f"IoU {100 * row['iou']:.0f} %"]
        if row.get("failure"):
            caption += wrapped(f"failure: {row['failure']}")[:2]
        cells.append(cell(overlay(image, rle.decode(row["mask"]), ANSWER, row.get("box")), caption))
    return side_by_side(cells)


def side_by_side(cells: Sequence[Image.Image]) -> Image.Image:
    """A line of the grid."""
    height = max(each.height for each in cells)
    line = Image.new("RGB", (len(cells) * (CELL + GAP) + GAP, height + GAP), "white")
    for i, each in enumerate(cells):
        line.paste(each, (GAP + i * (CELL + GAP), 0))
    return line


def cell(image: Image.Image, caption: Sequence[str]) -> Image.Image:
    """An image in the size of all, with lines of text below."""
    scale = CELL / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    made = Image.new("RGB", (CELL, size[1] + 4 + TEXT * len(caption)), "white")
    made.paste(image.resize(size, Image.Resampling.LANCZOS), (0, 0))
    draw = ImageDraw.Draw(made)
    for i, text in enumerate(caption):
        draw.text((0, size[1] + 2 + TEXT * i), text, fill="black", font=ImageFont.load_default(12))
    return made


def header(names: Sequence[str]) -> Image.Image:
    """The titles of the columns; the first column is the image with its expression."""
    titles = ["image and expression", *names]
    band = Image.new("RGB", (len(titles) * (CELL + GAP) + GAP, TEXT + 2 * GAP), "white")
    for i, title in enumerate(titles):
        ImageDraw.Draw(band).text((GAP + i * (CELL + GAP), GAP), title, fill="black", font=ImageFont.load_default(14))
    return band


def wrapped(text: str) -> list[str]:
    """A text in up to three lines as wide as a cell."""
    return textwrap.wrap(text, 36, max_lines=3, placeholder=" …") or [""]


def stack(parts: Sequence[Image.Image]) -> Image.Image:
    """Parts below each other."""
    grid = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        grid.paste(part, (0, top))
        top += part.height
    return grid
