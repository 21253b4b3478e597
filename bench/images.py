"""Images that we write: marked as ours, so that nothing of the user's is ever replaced."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from methods.base import UserError
from methods.files import write_atomic, writing

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
SOFTWARE, MARK = 0x0131, "genseg-bench"  # the EXIF tag of the program that wrote an image


def write_image(image: Image.Image, out: Path) -> Path:
    """Write an image whole or not at all, in the format of its name.

    Raises UserError for another format, and for a file that is there and was not written here.
    """
    kind = FORMATS.get(out.suffix.lower())
    if kind is None:
        raise UserError(f"{out}: cannot be written; give a path that ends in {', '.join(FORMATS)}.")
    check_free(out)
    exif, content = Image.Exif(), io.BytesIO()
    exif[SOFTWARE] = MARK
    with writing(out):
        image.save(content, kind, exif=exif)
    return write_atomic(out, content.getvalue())


def check_free(out: Path, inputs: tuple[Path, ...] = ()) -> None:
    """Raise UserError if an image written to `out` would replace something that was not written here, or an input."""
    with writing(out):
        there = out.exists() or out.is_symlink()
    if not there:
        return
    if any(path.exists() and out.samefile(path) for path in inputs if out.exists()):
        raise UserError(f"{out}: is the image that is asked about; give another path for the answer.")
    if not is_ours(out):
        raise UserError(f"{out}: is there already and was not written by genseg; give another path.")


def is_ours(path: Path) -> bool:
    """Whether an image was written by `write_image`."""
    try:
        with Image.open(path, formats=sorted(set(FORMATS.values()))) as image:
            return image.getexif().get(SOFTWARE) == MARK
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
