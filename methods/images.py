"""Image files as they are read: upright RGB, or as the official evaluations read them. Imports no torch."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from methods.base import UserError

READINGS = ("upright", "stored", "rotated")  # of image files, see open_image
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # that are read; none starts another program
MOST_PIXELS = 50_000_000  # of an image that is read


def open_image(source: Path | str | Image.Image, reading: str = "upright") -> Image.Image:
    """An RGB image from a path or an opened image, by one of READINGS.

    "upright": palette, grey, 16-bit and RGBA images are converted (transparency over white), EXIF rotation is undone.
    "stored": as official evaluations read images, Pillow's `convert("RGB")` of the stored pixels: no rotation, and what
    lies under transparency. "rotated": the same after EXIF rotation.
    Raises UserError if the file is missing, is no image of the FORMATS, or has more than MOST_PIXELS.
    """
    if isinstance(source, Image.Image):
        _check_pixels(source.size, "The image")
        return _upright_rgb(source) if reading == "upright" else _plain_rgb(source, reading)
    try:
        with open_header(source) as handle:
            _check_pixels(handle.size, str(source))
            handle.load()
            if reading != "upright":
                return _plain_rgb(handle, reading)
            return _upright_rgb(handle.copy() if _orientation(handle) == 1 else handle)
    except FileNotFoundError:
        raise UserError(f"{source}: no such file; give the path of an image.") from None
    except UNREADABLE as error:
        raise UserError(f"{source}: not a readable image ({error}); give a PNG, JPEG or WebP file.") from None


UNREADABLE = (
    OSError, ValueError, SyntaxError, EOFError, TypeError, KeyError, IndexError, AttributeError, OverflowError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # what Pillow raises for damaged files  # fmt: skip


def open_header(source: Path | str) -> Image.Image:
    """An image whose pixels are not read yet, of the FORMATS alone. Raises one of UNREADABLE."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # there is a limit of ours
        return Image.open(source, formats=FORMATS)


def _check_pixels(size: tuple[int, int], name: str) -> None:
    if size[0] * size[1] > MOST_PIXELS:
        raise UserError(
            f"{name}: {size[0]} x {size[1]} pixels, more than the {MOST_PIXELS // 10**6} megapixels that are read; "
            "give a smaller copy."
        )


def _orientation(image: Image.Image) -> int:
    return image.getexif().get(0x0112, 1)


def _upright_rgb(image: Image.Image) -> Image.Image:
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # 16-bit and float greys would clip, so they are scaled by their maximum
        grey = np.asarray(image, np.float32)
        image = Image.fromarray(np.uint8(255 * grey.clip(0) / max(float(grey.max()), 1.0)))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _plain_rgb(image: Image.Image, reading: str) -> Image.Image:
    """Marked as upright, so that whoever opens it again leaves it as it is."""
    image = ImageOps.exif_transpose(image) if reading == "rotated" else image
    image = image.convert("RGB")
    image.info.clear()
    return image
