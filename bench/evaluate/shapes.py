"""The shape test of a mask tokenizer: does it decode what its training data hardly hold?

Six kinds of masks: tall and wide ones at the borders, ones in a corner, rings, thin lines, tiny ones. They are contours
with random bumps and polylines, rasterised by Pillow, and share no code with the synthetic masks of training, so that a
tokenizer cannot have learnt this generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

KINDS = ("tall", "wide", "corner", "ring", "thin", "tiny")
SIDE = 256  # pixels of a test image
FINE = 4  # rasterised so many times finer, then averaged, so that edges have no steps
SEED = 26


@dataclass(frozen=True)
class Shape:
    """A mask bool [SIDE, SIDE] and its kind."""

    kind: str
    mask: np.ndarray


def shape_test(per_kind: int = 50, seed: int = SEED) -> list[Shape]:
    """The masks of the test, all kinds in turn; the first ones do not depend on how many follow."""
    rng = np.random.default_rng(seed)
    return [Shape(kind, _mask(kind, rng)) for _ in range(per_kind) for kind in KINDS]


def _mask(kind: str, rng: np.random.Generator) -> np.ndarray:
    canvas = Image.new("L", (SIDE * FINE, SIDE * FINE))
    _DRAW[kind](ImageDraw.Draw(canvas), rng)
    return np.asarray(canvas.reduce(FINE)) > 127


def _contour(rng: np.random.Generator, x: float, y: float, width: float, height: float) -> list[tuple[float, float]]:
    """Corners, in pixels of the fine canvas, of a bumpy closed curve that fills a box given in shares of the side."""
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    square = 1 / np.maximum(np.abs(np.cos(angle)), np.abs(np.sin(angle)))  # the radius of a square: 1 to 1.41
    radius = square ** rng.uniform(0, 1)
    for wave in range(2, 6):
        radius = radius * (1 + rng.normal(0, 0.09 / wave**0.5) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi)))
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    points -= points.min(0)
    points *= np.array([width, height]) / points.max(0)
    return [tuple(point) for point in (points + [x, y]) * SIDE * FINE]


def _long(rng: np.random.Generator) -> tuple[float, float]:
    """Short and long side of a box that covers 5 to 20 % of the image and is 3 to 5 times as long as wide."""
    area, aspect = rng.uniform(0.05, 0.19), rng.uniform(3, 5)
    return (area / aspect) ** 0.5, (area * aspect) ** 0.5


def _place(rng: np.random.Generator, length: float) -> float:
    """At the near border, at the far one, or anywhere."""
    return float(rng.choice([0.0, 1 - length, rng.uniform(0, 1 - length)]))


def _tall(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    width, height = _long(rng)
    draw.polygon(_contour(rng, _place(rng, width), _place(rng, height), width, height), 255)


def _wide(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    height, width = _long(rng)
    draw.polygon(_contour(rng, _place(rng, width), _place(rng, height), width, height), 255)


def _corner(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """Cut by two borders: a third of either side lies outside."""
    width, height = rng.uniform(0.2, 0.6, 2)
    x, y = (float(rng.choice([-length / 3, 1 - 2 * length / 3])) for length in (width, height))
    draw.polygon(_contour(rng, x, y, width, height), 255)


def _ring(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    width, height = rng.uniform(0.3, 0.7, 2)
    x, y = (rng.uniform(0, 1 - length) for length in (width, height))
    draw.polygon(_contour(rng, x, y, width, height), 255)
    hole = rng.uniform(0.4, 0.65)
    left, top = (start + (1 - hole) / 2 * length for start, length in ((x, width), (y, height)))
    draw.polygon(_contour(rng, left, top, hole * width, hole * height), 0)


def _thin(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """A line with one to three bends, 4 to 7 % of the side wide."""
    points = rng.uniform(0.05, 0.95, (int(rng.integers(3, 6)), 2))
    order = np.argsort(points @ rng.normal(size=2))  # along some direction, so that it does not fold
    line = [tuple(point) for point in points[order] * SIDE * FINE]
    draw.line(line, 255, width=round(rng.uniform(0.04, 0.07) * SIDE * FINE), joint="curve")


def _tiny(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """0.4 to 1.5 % of the image."""
    width, height = rng.uniform(0.07, 0.13, 2)
    draw.polygon(_contour(rng, rng.uniform(0, 1 - width), rng.uniform(0, 1 - height), width, height), 255)


_DRAW = {"tall": _tall, "wide": _wide, "corner": _corner, "ring": _ring, "thin": _thin, "tiny": _tiny}
