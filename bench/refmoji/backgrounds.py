"""Backgrounds: procedural grounds, table tops, skies and rooms, textured and photographic ones, in two banks.

The training bank and the evaluation bank share no background. A background is painted when it is first asked for and
depends only on its bank, kind and number.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter

from bench.refmoji.lexicon import FOLDER, lexicon
from bench.refmoji.textures import Colour, blend, blur, flat, noise, on_ground, planks, resized, skyline

BANKS = {"train": 3, "eval": 4}
EVAL_COUNT = 4  # backgrounds per kind in the evaluation bank
ASPECT = 1.25  # width over height of a stored background


@dataclass(frozen=True)
class Background:
    """`pixels` uint8 [h, w, 3]; `horizon` as a share of the height, None where the view has none."""

    pixels: np.ndarray
    horizon: float | None


Painter = Callable[[np.random.Generator, int, int], tuple[np.ndarray, float | None]]


class BackgroundBank:
    """The backgrounds of one bank ("train" or "eval"), `height` pixels tall, `count` of each kind."""

    def __init__(self, bank: str, height: int, count: int) -> None:
        self.bank, self.height, self.count = bank, height, count if bank == "train" else EVAL_COUNT
        photographs = lexicon().table["photographs"]
        self.photographs = [name for name, facts in photographs.items() if facts["bank"] == bank]
        self._made: dict[tuple[str, int], Background] = {}

    def choose(self, rng: np.random.Generator, kind: str) -> int:
        """The number of a background of that kind."""
        return int(rng.integers(0, len(self.photographs) if kind == "photo" else self.count))

    def shows(self, kind: str, number: int) -> tuple[str, ...]:
        """Subgroups of things that the background itself shows and that must not be put on it."""
        return tuple(lexicon().table["photographs"][self.photographs[number]]["shows"]) if kind == "photo" else ()

    def get(self, kind: str, number: int) -> Background:
        """The background, painted on first use."""
        key = (kind, number)
        if key not in self._made:
            rng = np.random.default_rng([BANKS[self.bank], zlib.crc32(kind.encode()), number])
            self._made[key] = self._paint(rng, kind, number)
        return self._made[key]

    def _paint(self, rng: np.random.Generator, kind: str, number: int) -> Background:
        height, width = self.height, round(self.height * ASPECT)
        if kind == "photo":
            image, horizon = _photograph(rng, self.photographs[number], height, width)
        else:
            image, horizon = PAINTERS[kind](rng, height, width)
        y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
        x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None]
        image = image * (1 - 0.22 * (x * x + y * y))[..., None]
        image = image + rng.normal(0, 2.2, (height, width, 1)).astype(np.float32)
        return Background(np.clip(image, 0, 255).astype(np.uint8), horizon)


@lru_cache(maxsize=8)
def bank(name: str, height: int, count: int) -> BackgroundBank:
    """The bank of that name and size, shared by everything in this process."""
    return BackgroundBank(name, height, count)


@lru_cache(maxsize=16)
def _stored(name: str) -> Image.Image:
    with zipfile.ZipFile(FOLDER / "backgrounds.zip") as pack:
        return Image.open(io.BytesIO(pack.read(f"{name}.webp")), formats=("WEBP",)).convert("RGB")


def _texture(name: str) -> np.ndarray:
    """A grey texture [512, 512] with mean 1."""
    grey = np.asarray(_stored(f"texture_{name}").convert("L"), np.float32)
    return grey / grey.mean()


def _pick(rng: np.random.Generator, *colours: Colour) -> Colour:
    return colours[int(rng.integers(0, len(colours)))]


def _photograph(rng: np.random.Generator, name: str, height: int, width: int) -> tuple[np.ndarray, float | None]:
    """A crop of a photograph, tinted and blurred so that it stays behind the objects."""
    image = _stored(name)
    scale = max(height / image.height, width / image.width) * rng.uniform(1.0, 1.25)
    image = image.resize((max(width, round(image.width * scale)), max(height, round(image.height * scale))))
    top, left = int(rng.integers(0, image.height - height + 1)), int(rng.integers(0, image.width - width + 1))
    tall = image.height
    image = image.crop((left, top, left + width, top + height)).filter(ImageFilter.GaussianBlur(rng.uniform(0.6, 2.2)))
    grey = np.asarray(image.convert("L"), np.float32)[..., None]
    share = lexicon().table["photographs"][name]["horizon"]
    horizon = None if share is None else (share * tall - top) / height
    tint = rng.uniform([0.8, 0.85, 0.8], [1.1, 1.1, 1.15]).astype(np.float32)
    return grey * tint, horizon if horizon is not None and 0.1 < horizon < 0.8 else None


# ------------------------------------------------------------------------------------------------ with a horizon
_GROUNDS: dict[str, tuple[tuple[Colour, ...], int, str | None, float]] = {
    # colours, cells of the noise, stored texture, its strength
    "meadow": (((88, 128, 52), (110, 140, 60), (125, 130, 60)), 40, "grass", 0.8),
    "street": (((92, 92, 96), (110, 108, 106), (76, 78, 84)), 60, "gravel", 0.3),
    "desert": (((205, 170, 120), (190, 150, 100)), 16, "gravel", 0.4),
    "snow": (((225, 232, 240), (210, 220, 232)), 10, "gravel", 0.12),
    "plaza": (((165, 155, 145), (140, 140, 142)), 30, "brick", 0.8),
    "court": (((70, 120, 150), (160, 90, 60), (90, 140, 80)), 60, None, 0.0),
}


def _sky(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    zenith, low = _pick(
        rng, ((70, 130, 205), (190, 220, 240)), ((95, 120, 160), (200, 205, 210)), ((60, 80, 140), (245, 180, 130)),
        ((120, 170, 220), (235, 240, 245)), ((40, 55, 95), (150, 140, 160)),
    )  # fmt: skip
    down = np.repeat(np.linspace(0, 1.6, height, dtype=np.float32)[:, None], width, axis=1)
    clouds = np.clip((noise(rng, height, width, 4, 5) - 0.52) * 4, 0, 1) * rng.uniform(0.2, 0.9)
    return blend(blend(zenith, low, np.clip(down, 0, 1)), (245.0, 245.0, 248.0), clouds)


def _hills(rng: np.random.Generator, sky: np.ndarray, horizon: float, town: bool) -> np.ndarray:
    """Up to three rows of hills in front of the sky, the farthest one a skyline of houses in town."""
    height, width = sky.shape[:2]
    for row in range(int(rng.integers(1, 4))):
        profile = resized(noise(rng, 2, 64, rng.uniform(2, 7), 5)[:1], 1, width)[0]
        top = (horizon - 0.16 * (1 - row * 0.28) * np.clip(profile * 1.6 - 0.35, 0, 1)) * height
        colour = np.float32(_pick(rng, (70, 95, 70), (95, 110, 125), (120, 115, 90), (60, 80, 60)))
        colour = colour * rng.uniform(0.8, 1.3) * (1 - 0.12 * row) + np.float32([35, 38, 45]) * (2 - row)
        if town and row == 0:
            top = (horizon - skyline(rng, width, int(rng.integers(8, 18)))) * height
            colour = np.float32([130, 130, 140]) * rng.uniform(0.6, 1.25)
        inside = (np.arange(height)[:, None] >= top[None])[..., None]
        shade = (0.9 + 0.2 * noise(rng, height, width, 20, 2))[..., None]
        sky = np.where(inside, np.clip(colour * shade, 0, 255), sky)
    return sky


def _ground_texture(rng: np.random.Generator, kind: str, side: int) -> np.ndarray:
    colours, cells, stored, strength = _GROUNDS[kind]
    texture = flat(_pick(rng, *colours), 0.62 + 0.76 * noise(rng, side, side, cells, 4, 0.75))
    if stored and rng.random() < 0.75:
        pattern = resized(_texture(stored), side, side)
        level = texture.mean(axis=2, keepdims=True)
        texture = texture / np.maximum(level, 1) * level.mean() * (1 - strength + strength * pattern[..., None])
    unit = side / 512
    if kind == "meadow":
        texture += (noise(rng, side, side, 6, 2)[..., None] - 0.5) * np.float32([60, 30, 10])
    elif kind == "plaza":
        for line in np.arange(0, side, 64 * unit).astype(int):
            texture[line : line + max(1, int(3 * unit))] *= 0.78
            texture[:, line : line + max(1, int(3 * unit))] *= 0.78
    elif kind == "street":
        middle = slice(int(250 * unit), int(262 * unit))
        dashes = (np.arange(side) // int(36 * unit) % 2 == 0)[:, None, None]
        texture[:, middle] = np.where(dashes, np.float32([225, 222, 205]), texture[:, middle])
        for line in (90, 414):
            texture[:, int(line * unit) : int((line + 8) * unit)] = 215
    elif kind == "court":
        for line in (60, 446):
            texture[:, int(line * unit) : int((line + 6) * unit)] = 235
        texture[int(250 * unit) : int(256 * unit)] = 235
    return texture


def _outdoors(kind: str) -> Painter:
    def paint(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, float]:
        share = float(rng.uniform(0.22, 0.42))
        horizon = int(share * height)
        image = _hills(rng, _sky(rng, height, width), share, kind in ("street", "plaza"))
        image[horizon:] = on_ground(_ground_texture(rng, kind, min(512, height)), height, width, horizon)
        seam = max(1, height // 80)
        image[horizon - seam : horizon + seam] = blur(image, 2)[horizon - seam : horizon + seam]
        away = np.abs(np.linspace(0, 1, height, dtype=np.float32) - share)
        haze = np.repeat((np.clip(1 - away / 0.25, 0, 1) * 0.25)[:, None], width, axis=1)
        return blend(image, (205.0, 212.0, 220.0), haze), share

    return paint


def _room(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, float]:
    share = float(rng.uniform(0.34, 0.5))
    walls = (222, 214, 200), (190, 205, 210), (205, 190, 170), (170, 185, 165), (200, 175, 175), (150, 160, 180)
    image = flat(_pick(rng, *walls), 0.86 + 0.2 * noise(rng, height, width, 3, 3))
    style = int(rng.integers(0, 3))
    if style == 0:  # stripes
        band = int(rng.integers(18, 40)) * height // 512 + 1
        image *= (1 - 0.06 * ((np.arange(width) // band) % 2))[None, :, None].astype(np.float32)
    elif style == 1:  # bricks
        row = max(6, 26 * height // 512)
        for top in range(0, height, row):
            image[top : top + 1] *= 0.86
            joints = np.arange((top // row % 2) * row, width, 2 * row)
            image[top : top + row, joints] *= 0.88
    side = min(512, height)
    if rng.random() < 0.65:
        board = _pick(rng, (160, 112, 70), (120, 80, 50), (190, 150, 105), (150, 145, 140))
        floor = planks(rng, side, side, board, 10, True)
    else:
        floor = flat((180, 172, 165), 0.9 + 0.2 * noise(rng, side, side, 50, 3))
    horizon = int(share * height)
    image[horizon:] = on_ground(floor, height, width, horizon)
    skirting = slice(horizon - max(2, height // 64), horizon)
    image[skirting] = np.float32([235, 232, 226]) * rng.uniform(0.7, 1)
    return image, share


# --------------------------------------------------------------------------------------------- without a horizon
def _open_sky(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, None]:
    return _sky(rng, height, width), None


def _water(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, None]:
    deep, light = _pick(
        rng, ((20, 90, 130), (70, 170, 190)), ((10, 60, 110), (50, 130, 170)), ((60, 130, 140), (150, 200, 200))
    )
    image = blend(deep, light, np.clip(noise(rng, height, width, 10, 5, 0.7) * 1.4 - 0.2, 0, 1))
    ripples = np.clip(0.05 - np.abs(noise(rng, height, width, 14, 3) - 0.5), 0, 1) * 500
    image += ripples[..., None] * np.float32([0.9, 1, 1])
    if rng.random() < 0.5:  # a beach along the lower border
        down = np.linspace(0, 1, height, dtype=np.float32)[:, None]
        shore = np.clip((down - 0.75 - 0.1 * noise(rng, height, width, 3, 3)) * 8, 0, 1) * 0.85
        sand = flat((190, 170, 120), 0.7 + 0.5 * noise(rng, height, width, 60, 3))
        image = blend(image, sand, shore)
    return image, None


def _wood(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, None]:
    colour = _pick(rng, (170, 120, 75), (110, 72, 45), (205, 165, 115), (140, 130, 118))
    return planks(rng, height, width, colour, int(rng.integers(4, 10)), bool(rng.integers(0, 2))), None


def _cloth(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, None]:
    colour = np.float32(_pick(rng, (180, 60, 60), (70, 110, 160), (80, 130, 90), (200, 190, 170), (120, 90, 140)))
    size = max(8, int(rng.integers(24, 60)) * height // 512)
    check = ((np.arange(height) // size % 2)[:, None] + (np.arange(width) // size % 2)[None]).astype(np.float32) / 2
    image = blend((240, 238, 232), colour, check * 0.85 if rng.random() < 0.55 else np.ones_like(check))
    folds = 0.8 + 0.36 * noise(rng, height, width, 3, 3)
    weave = 0.96 + 0.08 * rng.random((height, width), dtype=np.float32)
    return image * (folds * weave)[..., None], None


def _marble(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, None]:
    veins = np.clip(0.06 - np.abs(noise(rng, height, width, 5, 6, 0.6) - 0.5), 0, 1) / 0.06
    return blend((232, 230, 226), (150, 150, 155), veins * 0.6) * (
        0.92 + 0.12 * noise(rng, height, width, 3, 2)[..., None]
    ), None


def _concrete(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, None]:
    return flat((150, 148, 145), 0.7 + 0.5 * noise(rng, height, width, 6, 6, 0.72)), None


def _metal(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, None]:
    return flat((165, 168, 172), 0.75 + 0.45 * resized(noise(rng, height, 8, 40, 3), height, width)), None


def _carpet(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, None]:
    colour = _pick(rng, (150, 60, 60), (90, 100, 130), (130, 120, 100), (80, 110, 90), (170, 150, 130))
    return flat(colour, 0.7 + 0.6 * noise(rng, height, width, 70, 3, 0.9)), None


def _soil(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, None]:
    return flat((105, 78, 52), 0.45 + 1.05 * noise(rng, height, width, 30, 5, 0.8)), None


def _plain(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, None]:
    colour = tuple(rng.uniform(120, 235, 3))
    return flat(colour, 0.88 + 0.2 * noise(rng, height, width, 3, 4)), None


PAINTERS: dict[str, Painter] = {
    **{kind: _outdoors(kind) for kind in _GROUNDS},
    "room": _room, "sky": _open_sky, "water": _water, "wood": _wood, "cloth": _cloth, "marble": _marble,
    "concrete": _concrete, "metal": _metal, "carpet": _carpet, "soil": _soil, "plain": _plain,
}  # fmt: skip
