"""Contact sheets: images with mask outline, box and expressions, to look at what a dataset asks."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from methods.base import Example
from methods.images import open_image

CELL = 256  # pixels, of the image within a tile
LINE = 13
LINES = 7
INK, PAPER, OUTLINE, BOX = (20, 20, 20), (255, 255, 255), (255, 0, 220), (255, 230, 0)


def tile(example: Example) -> Image.Image:
    """One example as an image of CELL x (CELL + text) pixels."""
    image = open_image(example.image)
    scale = CELL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    pixels = np.array(image.resize(size, Image.Resampling.BILINEAR))
    if example.mask is not None:
        mask = np.asarray(Image.fromarray(example.mask).resize(size, Image.Resampling.NEAREST))
        pixels[ndimage.binary_dilation(mask, iterations=2) & ~mask] = OUTLINE
    page = Image.new("RGB", (CELL, CELL + LINE * LINES), PAPER)
    page.paste(Image.fromarray(pixels), (0, 0))
    draw = ImageDraw.Draw(page)
    if example.box is not None:
        left, top, right, bottom = (value * scale for value in example.box)
        draw.rectangle((left, top, right - 1, bottom - 1), outline=BOX)
    lines = [line for text in _captions(example) for line in textwrap.wrap(text, 44, subsequent_indent="  ")]
    for number, line in enumerate(lines[:LINES]):
        draw.text((3, CELL + number * LINE), line, INK, ImageFont.load_default(11))
    return page


def _captions(example: Example) -> list[str]:
    if example.answer is not None:
        return [example.expressions[0], f"> {example.answer}"]
    kinds = example.facts.get("kind") or [None] * len(example.expressions)
    return [f"[{kind}] {text}" if kind else text for kind, text in zip(kinds, example.expressions, strict=True)]


def contact_sheet(examples: Sequence[Example], columns: int = 6) -> Image.Image:
    """All examples on one page."""
    tiles = [tile(example) for example in examples]
    columns = max(1, min(columns, len(tiles)))
    rows = -(-len(tiles) // columns)
    page = Image.new("RGB", (columns * (CELL + 6), rows * (CELL + LINE * LINES + 6)), PAPER)
    for number, cell in enumerate(tiles):
        page.paste(cell, ((number % columns) * (CELL + 6) + 3, number // columns * (CELL + LINE * LINES + 6) + 3))
    return page
