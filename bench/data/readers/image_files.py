"""The images of a dataset, by the names that its files give them, in the frame of its annotations."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from methods.base import UserError
from methods.files import printable
from methods.images import UNREADABLE, open_header, open_image

Size = tuple[int, int]  # H, W
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap the sides


def path_under(folder: Path, name: str) -> Path | None:
    """The absolute path of a file that is named relative to a folder; None if the name leads out of it. Links that
    the user laid there are followed."""
    root = os.path.abspath(folder)
    path = Path(os.path.abspath(os.path.join(root, name)))
    return path if path.is_relative_to(root) and "\0" not in name else None


def checked_path(folder: Path, name: str, where: str) -> Path:
    """The path of a file that is named relative to a folder. where: what names it, as "referent 5 of refs.json".
    Raises UserError if the name leads out of the folder."""
    path = path_under(folder, name)
    if path is None:
        named = printable(repr(name), 80)
        raise UserError(f"{where} names the file {named}, which leaves {folder}; correct the path.")
    return path


def read_pixels(path: Path, where: str, take: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """What `take` makes of an image file that holds ground truth. where: what needs it. Raises UserError if it is
    missing or no image, or for a ValueError of `take`."""
    try:
        with open_header(path) as handle:
            return take(handle)
    except FileNotFoundError:
        raise UserError(f"{path}: missing file of {where}; get it, or correct its path.") from None
    except UNREADABLE as error:
        raise UserError(f"{path}: unusable file of {where} ({printable(error, 200)}); get it again.") from None


class ImageFiles:
    """Images under `folder`. A name may have more folders in front than are there: of data/coco/train2014/x.jpg the
    longest end that names a file counts.

    opens: whether files are opened to learn their sizes; without, they need not be there.
    The frame of an image is the size that its annotations record, if they do. A file of another size is resized to it.
    A file that has this size only as long as its EXIF orientation is ignored was annotated so, and is read so.
    """

    def __init__(self, folder: Path, opens: bool = True) -> None:
        self.folder, self.opens = folder, opens
        self._paths: dict[str, Path] = {}
        self._sizes: dict[str, tuple[Size, Size]] = {}  # of files that were opened: as shown, as stored
        self._recorded: dict[str, Size | None] = {}
        self._last: tuple[str, Image.Image] | None = None  # that was brought into its frame

    def path(self, name: str, where: str) -> Path:
        """Where an image lies, or would lie. where: what needs it, as "referent 5 of refs.json". Raises
        UserError if the name leads out of the folder."""
        if name not in self._paths:
            whole = checked_path(self.folder, name, where)
            ends = [whole] if not self.opens or os.path.exists(whole) else self._ends(name)
            self._paths[name] = next((path for path in ends if os.path.exists(path)), whole)
        return self._paths[name]

    def _ends(self, name: str) -> list[Path]:
        parts = Path(name).parts[1:]
        ends = (path_under(self.folder, os.path.join(*parts[start:])) for start in range(len(parts)))
        return [path for path in ends if path is not None]

    def look(self, name: str, recorded: Size | None, where: str) -> Path:
        """The path of an image whose file was opened, if files are. Raises UserError if it is missing or no image."""
        path = self.path(name, where)
        if self.opens and name not in self._sizes:
            self._sizes[name], self._recorded[name] = _sizes_of(path, where), recorded
        return path

    def open(self, name: str, recorded: Size | None, where: str) -> Path | Image.Image:
        """The image in its frame: its path, if the file is in it as it stands."""
        path = self.look(name, recorded, where)
        if name not in self._sizes or self._in_frame(name):
            return path
        if self._last is None or self._last[0] != name:  # the same image for all its samples in a row
            self._last = name, self._framed(name, path)
        return self._last[1]

    def frame(self, name: str, recorded: Size | None, where: str) -> Size:
        """(H, W) of the ground truth; that of the file, which is opened for it, where none is recorded."""
        if recorded is not None:
            return recorded
        if name not in self._sizes:
            self._sizes[name], self._recorded[name] = _sizes_of(self.path(name, where), where), None
        return self._sizes[name][0]

    def other_size(self, name: str) -> Size | None:
        """(H, W) of a file that was opened and is resized to its frame, else None."""
        if name not in self._sizes or self._in_frame(name) or self._as_stored(name):
            return None
        return self._sizes[name][0]

    def remarks(self, total: int) -> list[str]:
        """What was done to images, a sentence each; total: how many there are."""
        found = []
        resized = [name for name in self._sizes if self.other_size(name)]
        if resized:
            (h, w), (height, width) = self._sizes[resized[0]][0], self._recorded[resized[0]] or (0, 0)
            found.append(
                f"{len(resized)} of {total} images have another size than recorded and are resized to it "
                f"({resized[0]}: {w}x{h}, recorded {width}x{height})"
            )
        stored = [name for name in self._sizes if self._as_stored(name)]
        if stored:
            found.append(
                f"the EXIF orientation of {len(stored)} of {total} images is ignored, as their annotations do "
                f"({stored[0]})"
            )
        return found

    def _in_frame(self, name: str) -> bool:
        return self._recorded[name] in (None, self._sizes[name][0])

    def _as_stored(self, name: str) -> bool:
        return not self._in_frame(name) and self._recorded[name] == self._sizes[name][1]

    def _framed(self, name: str, path: Path) -> Image.Image:
        if self._as_stored(name):
            with open_header(path) as handle:
                image = handle.copy()
            image.getexif().pop(0x0112)
            return open_image(image)
        height, width = self._recorded[name] or (0, 0)
        return open_image(path).resize((width, height), Image.Resampling.BICUBIC)


def _sizes_of(path: Path, where: str) -> tuple[Size, Size]:
    """(H, W) of an image file as it is shown, and as it is stored."""
    try:
        with open_header(path) as handle:
            stored = handle.size[::-1]
            return stored[::-1] if handle.getexif().get(0x0112) in TURNED else stored, stored
    except FileNotFoundError:
        raise UserError(f"{path}: missing image of {where}; download it or set the folder of the images.") from None
    except UNREADABLE as error:
        raise UserError(f"{path}: unreadable image of {where} ({printable(error, 200)}); get it again.") from None
