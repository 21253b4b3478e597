"""What can be seen in a finished rendering: one `Seen` per object, with all that an expression may refer to.

Facts are read from the dataset's own annotations, both when expressions are made and when they are checked later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pycocotools import mask as rle

from bench.refmoji.assets import COLOURS, Pack, colour_name
from bench.refmoji.lexicon import Entry, lexicon
from bench.refmoji.render import Rendering, extent
from bench.refmoji.scene import Scene


@dataclass(frozen=True)
class Seen:
    """One visible object. `box` is x, y, width, height in pixels, `shares` the colour shares in order of COLOURS."""

    number: int
    entry: Entry
    box: tuple[int, int, int, int]
    area: int
    visibility: float
    size: float
    angle: float
    base: float  # y of its foot
    colour: str | None
    shares: tuple[float, ...]
    cut: bool  # touches the border

    @cached_property
    def x(self) -> float:
        return self.box[0] + self.box[2] / 2

    @cached_property
    def y(self) -> float:
        return self.box[1] + self.box[3] / 2

    def share(self, colour: str) -> float:
        return self.shares[COLOURS.index(colour)]


@dataclass(frozen=True)
class View:
    """An image as a speaker sees it."""

    width: int
    height: int
    mode: str
    backdrop: str
    objects: tuple[Seen, ...]

    @property
    def area(self) -> int:
        return self.width * self.height

    def named(self, number: int) -> Seen:
        """The object of that number."""
        return next(item for item in self.objects if item.number == number)


def annotate(scene: Scene, rendering: Rendering, pack: Pack) -> list[dict[str, Any]]:
    """COCO annotations of the visible objects, without ids; `number` is the object's place in the scene."""
    annotations = []
    for number, item in enumerate(scene.objects):
        mask = rendering.ids == number + 1
        area = int(np.count_nonzero(mask))
        if not area:
            continue
        encoded = rle.encode(np.asfortranarray(mask.view(np.uint8)))
        shares = pack.colours(item.sprite, item.hue)
        half_height = extent(pack, item)[1]
        annotations.append({
            "number": number,
            "segmentation": {"size": [scene.height, scene.width], "counts": encoded["counts"].decode()},
            "bbox": [int(value) for value in rle.toBbox(encoded)],
            "area": area,
            "visibility": round(area / rendering.full[number], 3),
            "color": None if lexicon()[item.sprite].person else colour_name(shares),
            "sprite": item.sprite,
            "hue": item.hue,
            "size": item.size,
            "angle": item.angle,
            "base": round(item.y + half_height, 1),
        })  # fmt: skip
    return annotations


def view_of(image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], pack: Pack) -> View:
    """The view of an image from its record (width, height, mode, backdrop) and its annotations."""
    width, height = image["width"], image["height"]
    objects = []
    for record in annotations:
        x, y, w, h = record["bbox"]
        shares = tuple(float(value) for value in pack.colours(record["sprite"], record["hue"]))
        objects.append(Seen(
            number=record["number"], entry=lexicon()[record["sprite"]], box=(x, y, w, h), area=record["area"],
            visibility=record["visibility"], size=record["size"], angle=record["angle"], base=record["base"],
            colour=record["color"], shares=shares, cut=x <= 1 or y <= 1 or x + w >= width - 1 or y + h >= height - 1,
        ))  # fmt: skip
    return View(width, height, image["mode"], image["backdrop"], tuple(objects))
