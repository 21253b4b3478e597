"""Sprites: reading a pack, changing hues, measuring colours.

A pack is a zip of RGBA WebP images with an index.json. WebP decoding is the slow part, so everything derived from
a sprite is kept in a least-recently-used cache, per (sprite, hue).
"""

from __future__ import annotations

import io
import json
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from bench.refmoji.lexicon import FOLDER
from methods.base import UserError

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray")
HUES = (0, 26, 50, 124, 212, 274, 326)  # degrees: targets of the recolouring, index 0..6
SPREAD = 44  # degrees around the dominant hue that turn with it
PAD = 4  # transparent pixels around a sprite, so that resampling sees a soft border
OPAQUE = 127  # alpha above which a pixel belongs to the object
DOMINANT = 0.46  # a colour names an object if it covers more than this ...
CLEARLY = 1.7  # ... and this many times the second colour
# Upper hue bounds in degrees of the chromatic colours, as indices into COLOURS.
_HUE_BOUNDS = np.array([14, 40, 66, 165, 255, 300, 346, 361])
_HUE_COLOURS = np.array([0, 1, 2, 3, 4, 5, 6, 0])


@dataclass(frozen=True)
class Sprite:
    """One drawing in one hue: `levels[k]` is the padded image reduced 2**k times (mode RGBa, premultiplied),
    `shapes[k]` its alpha alone (mode L)."""

    width: int  # of the drawing itself, without the padding
    height: int
    levels: tuple[Image.Image, ...]
    shapes: tuple[Image.Image, ...]


class Pack:
    """A zip of sprites in one drawing style. `side` is the longest side in pixels that is ever needed."""

    def __init__(self, name: str, side: int = 224, capacity: int = 600) -> None:
        self.name = name
        self.side = side
        path = FOLDER / f"{name}.zip"
        # In memory: forked workers would share the position within an open file.
        self._zip = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
        self.sizes = {item["id"]: (item["w"], item["h"]) for item in json.loads(self._zip.read("index.json"))}
        self._sprites: OrderedDict[tuple[str, int | None], Sprite] = OrderedDict()
        self._colours: dict[tuple[str, int | None], np.ndarray] = {}
        self._capacity = capacity
        self._decoded = lru_cache(maxsize=256)(self._decode)

    def __contains__(self, sprite: str) -> bool:
        return sprite in self.sizes

    def aspect(self, sprite: str) -> float:
        """Width over height of the drawing."""
        width, height = self.sizes[sprite]
        return width / height

    def sprite(self, sprite: str, hue: int | None) -> Sprite:
        """The drawing of that id, its main hue turned to HUES[hue] (None: as drawn)."""
        key = (sprite, hue)
        if key in self._sprites:
            self._sprites.move_to_end(key)
            return self._sprites[key]
        image = self._coloured(sprite, hue)
        if key not in self._colours:
            self._colours[key] = colour_shares(np.asarray(image)[::2, ::2])
        made = self._sprites[key] = _reduced(image)
        if len(self._sprites) > self._capacity:
            self._sprites.popitem(last=False)
        return made

    def colours(self, sprite: str, hue: int | None) -> np.ndarray:
        """float64 [11], the share of each of COLOURS among the drawing's opaque pixels."""
        if (sprite, hue) not in self._colours:
            self.sprite(sprite, hue)
        return self._colours[sprite, hue]

    def _coloured(self, sprite: str, hue: int | None) -> Image.Image:
        image = self._decoded(sprite)
        return image if hue is None else recolour(image, HUES[hue])

    def _decode(self, sprite: str) -> Image.Image:
        try:
            data = self._zip.read(f"{sprite}.webp")
        except KeyError:
            raise UserError(f"{FOLDER / self.name}.zip: no sprite {sprite!r}; restore the asset pack.") from None
        image = Image.open(io.BytesIO(data), formats=("WEBP",)).convert("RGBA")
        if max(image.size) > self.side:
            scale = self.side / max(image.size)
            size = round(image.width * scale), round(image.height * scale)
            image = image.resize(size, Image.Resampling.BOX)
        return image


@lru_cache(maxsize=8)
def pack(name: str, side: int) -> Pack:
    """The pack of that name, shared by everything in this process."""
    return Pack(name, side)


def _reduced(image: Image.Image) -> Sprite:
    padded = Image.new("RGBA", (image.width + 2 * PAD, image.height + 2 * PAD))
    padded.paste(image, (PAD, PAD))
    levels = [padded.convert("RGBa")]
    while min(levels[-1].size) >= 24:
        levels.append(levels[-1].reduce(2))
    shapes = tuple(level.getchannel("a") for level in levels)
    return Sprite(image.width, image.height, tuple(levels), shapes)


def recolour(image: Image.Image, target: int) -> Image.Image:
    """Turn the dominant hue of an RGBA image, and what lies near it, to `target` degrees."""
    hsv = np.array(image.convert("RGB").convert("HSV"))
    hue, saturation = hsv[..., 0].astype(np.int16), hsv[..., 1]
    alpha = np.asarray(image)[..., 3]
    vivid = (alpha > OPAQUE) & (saturation > 60)
    if np.count_nonzero(vivid) < 50:
        return image
    weights = np.bincount(hue[vivid], weights=saturation[vivid].astype(np.float64), minlength=256)
    window = 11
    around = np.concatenate([weights[-window:], weights, weights[:window]])
    smooth = np.convolve(around, np.ones(2 * window + 1), "valid")
    dominant = int(smooth.argmax())
    distance = np.abs((hue - dominant + 128) % 256 - 128)
    turned = (distance < SPREAD * 256 // 360) & (saturation > 40)
    hsv[..., 0] = np.where(turned, (hue - dominant + round(target * 256 / 360)) % 256, hue)
    coloured = Image.fromarray(hsv, "HSV").convert("RGB")
    coloured.putalpha(image.getchannel("A"))
    return coloured


def colour_shares(rgba: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 4] -> float64 [11]: the share of each of COLOURS among the opaque pixels."""
    pixels = rgba[rgba[..., 3] > OPAQUE][:, :3]
    if not len(pixels):
        return np.zeros(len(COLOURS))
    hsv = np.asarray(Image.fromarray(pixels[None]).convert("HSV"))[0].astype(np.float32)
    hue, saturation, value = hsv[:, 0] * (360 / 256), hsv[:, 1] / 255, hsv[:, 2] / 255
    colour = np.full(len(pixels), COLOURS.index("gray"))
    colour[(saturation <= 0.22) & (value > 0.8)] = COLOURS.index("white")
    colour[(value <= 0.25) | ((saturation <= 0.3) & (value < 0.33))] = COLOURS.index("black")
    vivid = (saturation > 0.22) & (value > 0.2)
    colour[vivid] = _HUE_COLOURS[np.searchsorted(_HUE_BOUNDS, hue[vivid], side="right")]
    dull = ((hue < 40) | (hue > 346)) & (value < 0.62) & (saturation < 0.9)
    earthy = (hue >= 10) & (hue < 45) & (value < 0.72) & (saturation < 0.75)
    colour[vivid & (dull | earthy)] = COLOURS.index("brown")
    colour[vivid & ((hue >= 325) | (hue < 12)) & (value > 0.75) & (saturation < 0.5)] = COLOURS.index("pink")
    return np.bincount(colour, minlength=len(COLOURS)) / len(pixels)


def colour_name(shares: np.ndarray) -> str | None:
    """The colour anybody would name, or None if the object is of several colours."""
    first, second = np.sort(shares)[::-1][:2]
    return COLOURS[int(shares.argmax())] if first > DOMINANT and first > CLEARLY * second else None
