"""Noise and surfaces from which backgrounds are painted. All images are float32 in 0..255, noise is in 0..1."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageFilter

Colour = tuple[float, float, float]


def noise(
    rng: np.random.Generator, height: int, width: int, cells: float, octaves: int, fade: float = 0.55
) -> np.ndarray:
    """Fractal noise float32 [height, width] in 0..1; the coarsest octave has `cells` cells along the longer side."""
    total, weight, amplitude = np.zeros((height, width), np.float32), 0.0, 1.0
    for octave in range(octaves):
        fine = cells * 2**octave / max(height, width)
        grid = rng.random((max(2, int(fine * height) + 1), max(2, int(fine * width) + 1)), dtype=np.float32)
        total += amplitude * resized(grid, height, width)
        weight += amplitude
        amplitude *= fade
    return total / weight


def resized(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """A float32 [h, w] array stretched smoothly to [height, width]."""
    return np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.BICUBIC))


def blend(first: Colour | np.ndarray, second: Colour | np.ndarray, amount: np.ndarray) -> np.ndarray:
    """From `first` (amount 0) to `second` (amount 1); amount [h, w] -> [h, w, 3]."""
    low, high = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return low + (high - low) * amount[..., None]


def flat(colour: Colour, shade: np.ndarray) -> np.ndarray:
    """One colour times a shade [h, w] -> [h, w, 3]."""
    return np.asarray(colour, np.float32) * shade[..., None].astype(np.float32)


def blur(pixels: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian blur of an image [h, w, 3] (rounded to whole levels)."""
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32)


def planks(rng: np.random.Generator, height: int, width: int, colour: Colour, count: int, upright: bool) -> np.ndarray:
    """Wooden boards [height, width, 3], lying or upright."""
    if upright:
        return np.ascontiguousarray(planks(rng, width, height, colour, count, False).transpose(1, 0, 2))
    image = np.empty((height, width, 3), np.float32)
    grain = resized(noise(rng, height, max(8, width // 14), 24, 4), height, width)
    step = height / count
    for index in range(count):
        top, bottom = round(index * step), round((index + 1) * step)
        image[top:bottom] = np.asarray(colour, np.float32) * rng.uniform(0.82, 1.12)
        cut = int(rng.integers(0, width))
        image[top:bottom, cut:] *= rng.uniform(0.9, 1.08)
        image[top:bottom, max(0, cut - 1) : cut + 1] *= 0.6
        image[top : min(height, top + max(1, height // 300))] *= 0.62
    return image * (0.72 + 0.55 * grain)[..., None]


def on_ground(texture: np.ndarray, height: int, width: int, horizon: int) -> np.ndarray:
    """Lay a square texture [t, t, 3] on the plane below the horizon -> [height - horizon, width, 3].

    Coordinates run far outside the texture near the horizon; they are folded back by an explicit triangle wave, and
    the texture fades to its mean colour where it would only alias.
    """
    side = texture.shape[0]
    rows = height - horizon
    depth = rows / (np.arange(rows, dtype=np.float32) + 2.0)
    across = (np.arange(width, dtype=np.float32) - width / 2)[None] * depth[:, None] * (0.62 * side / width) + side / 2
    along = np.repeat((depth * side * 0.55)[:, None], width, axis=1)
    ground = _bilinear(texture, _folded(along, side), _folded(across, side))
    far = np.clip((depth - 5) / 10, 0, 1)[:, None, None]
    return ground * (1 - far) + texture.mean(axis=(0, 1)) * far


def _folded(position: np.ndarray, side: int) -> np.ndarray:
    return np.abs(np.mod(position, 2 * (side - 1)) - (side - 1))


def _bilinear(texture: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    last = texture.shape[0] - 1
    top, left = np.minimum(y.astype(np.int32), last - 1), np.minimum(x.astype(np.int32), last - 1)
    down, right = (y - top)[..., None], (x - left)[..., None]
    upper = texture[top, left] * (1 - right) + texture[top, left + 1] * right
    lower = texture[top + 1, left] * (1 - right) + texture[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


def skyline(rng: np.random.Generator, width: int, houses: int) -> np.ndarray:
    """Heights float32 [width] of a row of houses, as shares of the image's height."""
    return np.repeat(rng.uniform(0.02, 0.2, houses), math.ceil(width / houses))[:width].astype(np.float32)
