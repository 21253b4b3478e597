"""Where the files of a dataset lie: names are tried in a folder and in those below it that people use."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from methods.base import UserError


class NotThere(UserError):
    """A dataset, or a split of it, is not there; nothing that is there is wrong."""


def find_file(root: Path | str, names: Iterable[str], folders: Iterable[str] = ()) -> Path | None:
    """The one file of these names that lies in `root` or in one of the folders below it; `root` itself if it is a
    file. Raises UserError if there are several."""
    root = Path(root)
    if root.is_file():
        return root
    places = [root, *(root / folder for folder in folders)]
    found = [place / name for place in places for name in names if (place / name).is_file()]
    if len(found) > 1:
        raise UserError(f"{root}: both {found[0]} and {found[1]} are there; give the file that is meant as root.")
    return found[0] if found else None


def file_of_rows(root: Path, name: str) -> Path | None:
    """`root` itself if it is a file; in a folder the file of that name, or the one file of JSON lines; else None."""
    if root.is_file():
        return root
    found = [root / name] if (root / name).is_file() else sorted(root.glob("*.jsonl"))
    return found[0] if len(found) == 1 else None


def images_beside(path: Path, images: Path | str | None) -> Path:
    """The folder of the images: the one that is given, else `images` beside the file that names them."""
    return Path(images) if images else path.parent / "images"
