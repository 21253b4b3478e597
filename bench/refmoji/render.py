"""Drawing a scene: the image, and the map of which object is seen at each pixel.

Only Pillow and numpy touch pixels: other libraries were found to change them between versions.
H x W is the canvas. Sprites are premultiplied, so that resampling leaves no dark fringes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from bench.refmoji.assets import OPAQUE, PAD, Pack, Sprite
from bench.refmoji.backgrounds import BackgroundBank
from bench.refmoji.scene import Backdrop, Cover, Placed, Scene

SHADES = ((58, 48, 42), (122, 122, 128), (196, 190, 180), (38, 44, 40), (92, 74, 56))  # RGB of covers
DETAIL = 0.62  # a sprite is taken from the smallest reduction that is not shown larger than 1 / (2 * DETAIL)


@dataclass(frozen=True)
class Stamp:
    """A drawn object: premultiplied RGBA uint8 [h, w, 4] whose upper left pixel lies at (left, top) of the canvas."""

    left: int
    top: int
    pixels: np.ndarray

    @property
    def opaque(self) -> np.ndarray:
        """bool [h, w]: the pixels that belong to the object."""
        return self.pixels[..., 3] > OPAQUE

    def window(self, array: np.ndarray) -> np.ndarray:
        """The view of an [H, W, ...] array that this stamp covers."""
        height, width = self.pixels.shape[:2]
        return array[self.top : self.top + height, self.left : self.left + width]


@dataclass(frozen=True)
class Rendering:
    """`image` RGB; `ids` uint8 [H, W] with 0 for the background and k + 1 where object k is seen; `full` int [n]
    the opaque pixels that each object would show within the canvas if nothing covered it."""

    image: Image.Image
    ids: np.ndarray
    full: tuple[int, ...]


def extent(pack: Pack, item: Placed) -> tuple[float, float]:
    """Half width and half height in pixels of the box around the turned drawing."""
    aspect = math.sqrt(pack.aspect(item.sprite) * item.stretch)
    width, height = item.size * aspect, item.size / aspect
    cosine, sine = abs(math.cos(math.radians(item.angle))), abs(math.sin(math.radians(item.angle)))
    return (cosine * width + sine * height) / 2, (sine * width + cosine * height) / 2


@dataclass(frozen=True)
class _View:
    """How an object reaches the canvas: its window there, and the affine map from window to the reduced sprite."""

    left: int
    top: int
    width: int
    height: int
    level: int
    affine: tuple[float, float, float, float, float, float]


def _view(pack: Pack, sprite: Sprite, item: Placed, width: int, height: int) -> _View | None:
    half_x, half_y = extent(pack, item)
    left, top = max(0, math.floor(item.x - half_x) - 1), max(0, math.floor(item.y - half_y) - 1)
    right, bottom = min(width, math.ceil(item.x + half_x) + 1), min(height, math.ceil(item.y + half_y) + 1)
    if right - left < 3 or bottom - top < 3:
        return None
    scale, stretch = item.size / math.sqrt(sprite.width * sprite.height), math.sqrt(item.stretch)
    level, longer = 0, scale * max(stretch, 1 / stretch)
    while level + 1 < len(sprite.levels) and longer * 2**level < DETAIL:
        level += 1
    source = sprite.levels[level]
    # Output to input: shift to the centre, turn back, unmirror, unscale, shift to the reduced sprite's centre.
    shrink_x = source.width / (sprite.width + 2 * PAD) / scale / stretch * (-1 if item.mirrored else 1)
    shrink_y = source.height / (sprite.height + 2 * PAD) / scale * stretch
    cosine, sine = math.cos(math.radians(item.angle)), math.sin(math.radians(item.angle))
    a, b, d, e = cosine * shrink_x, sine * shrink_x, -sine * shrink_y, cosine * shrink_y
    x, y = item.x - left, item.y - top
    affine = (a, b, source.width / 2 - a * x - b * y, d, e, source.height / 2 - d * x - e * y)
    return _View(left, top, right - left, bottom - top, level, affine)


def stamp(pack: Pack, item: Placed, width: int, height: int) -> Stamp | None:
    """The object as it appears on a canvas of that size, or None if it lies outside."""
    sprite = pack.sprite(item.sprite, item.hue)
    view = _view(pack, sprite, item, width, height)
    if view is None:
        return None
    size = (view.width, view.height)
    affine = Image.Transform.AFFINE
    drawn = sprite.levels[view.level].transform(size, affine, view.affine, Image.Resampling.BILINEAR)
    return Stamp(view.left, view.top, np.asarray(drawn))


def silhouette(pack: Pack, item: Placed, width: int, height: int) -> tuple[int, int, np.ndarray] | None:
    """(left, top, bool [h, w]): the object's pixels on the canvas, a quick estimate that is off by border pixels."""
    sprite = pack.sprite(item.sprite, item.hue)
    view = _view(pack, sprite, item, width, height)
    if view is None:
        return None
    size = (view.width, view.height)
    affine = Image.Transform.AFFINE
    shape = sprite.shapes[view.level].transform(size, affine, view.affine, Image.Resampling.NEAREST)
    return view.left, view.top, np.asarray(shape) > OPAQUE


def render(scene: Scene, pack: Pack, bank: BackgroundBank) -> Rendering:
    """Draw a scene."""
    canvas = np.array(_backdrop(bank, scene.backdrop, scene.width, scene.height))
    ids = np.zeros((scene.height, scene.width), np.uint8)
    full = []
    for number, item in enumerate(scene.objects):
        drawn = stamp(pack, item, scene.width, scene.height)
        if drawn is None:
            full.append(0)
            continue
        if scene.mode == "ground":
            _contact_shadow(canvas, pack, item)
        elif scene.mode == "top":
            _drop_shadow(canvas, drawn, item.size)
        _paste(canvas, drawn, [light * item.gain for light in scene.light])
        opaque = drawn.opaque
        drawn.window(ids)[opaque] = number + 1
        full.append(int(np.count_nonzero(opaque)))
    for cover in scene.covers:
        _cover(canvas, ids, cover)
    return Rendering(_finished(canvas, scene), ids, tuple(full))


def _backdrop(bank: BackgroundBank, crop: Backdrop, width: int, height: int) -> Image.Image:
    pixels = bank.get(crop.kind, crop.number).pixels
    view = pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    image = Image.fromarray(np.ascontiguousarray(view)).resize((width, height), Image.Resampling.BILINEAR)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if crop.mirrored else image


def _paste(canvas: np.ndarray, drawn: Stamp, gain: Sequence[float]) -> None:
    """Lay the stamp over the canvas, its channels multiplied by gain; in 16-bit integers, channel by channel."""
    region = drawn.window(canvas)
    through = np.uint16(255) - drawn.pixels[..., 3]
    for channel in range(3):
        mixed = (region[..., channel] * through + np.uint16(255)) >> np.uint16(8)
        mixed += (drawn.pixels[..., channel] * np.uint16(128 * gain[channel])) >> np.uint16(7)
        region[..., channel] = np.minimum(mixed, 255)


def _darken(canvas: np.ndarray, left: int, top: int, shadow: np.ndarray) -> None:
    """Multiply the canvas by 1 - shadow / 255; shadow uint8 [h, w] at (left, top) may reach over the border."""
    x0, y0 = max(0, left), max(0, top)
    x1, y1 = min(canvas.shape[1], left + shadow.shape[1]), min(canvas.shape[0], top + shadow.shape[0])
    if x1 > x0 and y1 > y0:
        keep = np.uint16(255) - shadow[y0 - top : y1 - top, x0 - left : x1 - left]
        region = canvas[y0:y1, x0:x1]
        for channel in range(3):
            region[..., channel] = (region[..., channel] * keep + np.uint16(255)) >> np.uint16(8)


@lru_cache(maxsize=1)
def _blob() -> Image.Image:
    """A soft round shadow, 64 x 64."""
    axis = np.linspace(-1, 1, 64, dtype=np.float32)
    radius = np.hypot(axis[None], axis[:, None])
    return Image.fromarray((135 * np.clip((1 - radius) / 0.6, 0, 1) ** 1.5).astype(np.uint8))


def _contact_shadow(canvas: np.ndarray, pack: Pack, item: Placed) -> None:
    """A flat dark ellipse under the foot of a standing object."""
    half_x, half_y = extent(pack, item)
    radius_x, radius_y = max(3, round(half_x * 1.1)), max(2, round(half_y * 0.2 + half_x * 0.1))
    shadow = np.asarray(_blob().resize((2 * radius_x, 2 * radius_y), Image.Resampling.BILINEAR))
    _darken(canvas, round(item.x) - radius_x, round(item.y + half_y * 0.95) - radius_y, shadow)


def _drop_shadow(canvas: np.ndarray, drawn: Stamp, size: float) -> None:
    """The blurred silhouette, moved down and to the right."""
    shift, radius = max(2, round(0.035 * size)), max(1, round(0.025 * size))
    silhouette = Image.fromarray(drawn.pixels[..., 3] >> 1)
    shadow = np.asarray(silhouette.filter(ImageFilter.BoxBlur(radius)))
    _darken(canvas, drawn.left + shift, drawn.top + shift, shadow)


def _cover(canvas: np.ndarray, ids: np.ndarray, cover: Cover) -> None:
    """Draw a bar or a disc over the canvas, with soft edges, and take its pixels from the objects."""
    height, width = ids.shape
    shape = Image.new("L", (2 * width, 2 * height))  # twice as large, so that the edges come out soft
    draw = ImageDraw.Draw(shape)
    if cover.kind == "disc":
        x0, y0 = 2 * cover.x - cover.width, 2 * cover.y - cover.width
        draw.ellipse((x0, y0, x0 + 2 * cover.width, y0 + 2 * cover.width), 255)
    else:
        cosine, sine = math.cos(math.radians(cover.angle)), math.sin(math.radians(cover.angle))
        ends = [(a * cover.length, b * cover.width) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        turned = [(cosine * a - sine * b, sine * a + cosine * b) for a, b in ends]
        draw.polygon([(2 * cover.x + a, 2 * cover.y + b) for a, b in turned], 255)
    alpha = np.asarray(shape.reduce(2)).astype(np.uint16)
    for channel, value in enumerate(SHADES[cover.shade]):
        region = canvas[..., channel]
        region[...] = (region * (255 - alpha) + value * alpha + 127) // 255
    ids[alpha > OPAQUE] = 0


def _finished(canvas: np.ndarray, scene: Scene) -> Image.Image:
    """Contrast and brightness of the whole image, and a slight blur in some."""
    table = np.clip(np.arange(256) * scene.contrast + scene.brightness, 0, 255).astype(int).tolist()
    image = Image.fromarray(canvas).point(table * 3)
    return image.filter(ImageFilter.BoxBlur(scene.soft)) if scene.soft else image
