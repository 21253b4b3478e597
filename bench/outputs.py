"""What we write beside a user's own files: nothing is replaced or removed that genseg did not write.

A folder of results lists in `written.json` the digest of every file that was written there. A file that is not on the
list, or has changed since, is somebody else's work and stays. Images that stand alone carry a mark of ours, and files
of JSON lines are known by their fields.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from methods.base import UserError
from methods.files import fits, printable, read_lines, read_object, write_atomic, writing

LIST = "written.json"
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
SOFTWARE, MARK = 0x0131, "genseg-bench"  # the EXIF tag of the program that wrote an image


def check_lines(path: Path, keys: Sequence[str], repair: str = "rename it") -> None:
    """Raise UserError if something is at `path` that is no file of JSON lines with one of the keys in the first."""
    with writing(path):
        there = os.path.lexists(path)
    if there and not set(keys) & _first_object(path).keys():
        raise UserError(f"{printable(path)}: holds something else and would be replaced; {repair}.")


def _first_object(path: Path) -> Mapping[str, Any]:
    """The first line's object; an empty one if there is none."""
    try:
        return read_lines(path)[0][1]
    except (UserError, IndexError):
        return {}


def check_new(*paths: Path) -> None:
    """Raise UserError for the first of these places that is not empty."""
    for path in paths:
        with writing(path):
            there = os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir()))
        if there:
            raise UserError(f"{printable(path)}: is there already and would be replaced; give another name.")


class Outputs:
    """A folder of results. Two processes may write to it at once, if not the same files."""

    def __init__(self, folder: Path):
        self.folder = folder

    def check(self, names: Iterable[str]) -> None:
        """Raise UserError for the first of these files that is there and is not as we wrote it."""
        known = self._known()
        for name in names:
            self._check(name, known)

    def write(self, files: Mapping[str, bytes | str]) -> list[Path]:
        """Write files (name under the folder -> content), after a look at all of them; -> their paths.

        A file that has this content already is left as it is, whoever wrote it. Raises UserError as `check` does, and
        if the folder cannot be written to.
        """
        data = {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}
        new = {name: hashlib.sha256(content).hexdigest() for name, content in data.items()}
        old = {name: _digest(self.folder / name) for name in data}
        changed = [name for name in data if old[name] != new[name]]
        self.check(changed)
        self._note({name: [old[name] or "", new[name]] for name in changed})  # a kill leaves one or the other
        for name in changed:
            write_atomic(self.folder / name, data[name])
        self._note({name: [digest] for name, digest in new.items()})
        return [self.folder / name for name in data]

    def write_folder(self, name: str, source: Path, last: str) -> Path:
        """Make the folder `name` a copy of `source`, whose files fit in memory; `last` is written at the end and, while
        others are replaced, is not there. Raises UserError as `check` does, for anything in the folder."""
        target = self.folder / name
        there = {f"{name}/{path.relative_to(target)}" for path in target.rglob("*") if not path.is_dir()}
        wanted = {f"{name}/{path.relative_to(source)}": path for path in source.rglob("*") if path.is_file()}
        if there == wanted.keys() and all(_digest(self.folder / key) == _digest(path) for key, path in wanted.items()):
            return target
        self.check(there)
        end = f"{name}/{last}"
        self.remove(there & {end})
        self.remove(there - wanted.keys() - {end})
        for key in sorted(wanted, key=lambda key: (key == end, key)):
            self.write({key: wanted[key].read_bytes()})
        return target

    def remove(self, names: Collection[str]) -> None:
        """Remove files that we wrote. Raises UserError as `check` does."""
        self.check(names)
        for name in names:
            (self.folder / name).unlink(missing_ok=True)
        self._note({name: [] for name in names})

    def remove_others(self, made: Collection[str], folder: str, suffixes: Collection[str]) -> None:
        """Remove what we wrote into `folder` earlier and is not among `made`: the files with these suffixes that nobody
        has changed since."""
        known = self._known()
        old = [name for name in known if name.startswith(f"{folder}/") and Path(name).suffix in suffixes]
        self.remove([n for n in old if n not in made and _digest(self.folder / n) in (None, *known[n])])

    def _check(self, name: str, known: Mapping[str, list[str]]) -> None:
        path = self.folder / name
        if os.path.lexists(path) and (path.is_symlink() or _digest(path) not in known.get(name, ())):
            raise UserError(
                f"{printable(path)}: was not written by genseg, or has been changed since; move it elsewhere, or give "
                "another results= folder."
            )

    def _known(self) -> dict[str, list[str]]:
        path = self.folder / LIST
        if not path.exists():
            return {}
        found = read_object(path, "move it elsewhere")
        if not fits(found, dict[str, list[str]]):
            raise UserError(f"{printable(path)}: is no list of written files; move it elsewhere.")
        return found

    def _note(self, digests: Mapping[str, list[str]]) -> None:
        """Put the digests that files may have, none for those that are gone, on the list."""
        with _alone(self.folder):
            before = self._known()
            after = {name: each for name, each in {**before, **digests}.items() if each}
            if after != before:
                write_atomic(self.folder / LIST, json.dumps(after, indent=1, sort_keys=True) + "\n")


def _digest(path: Path) -> str | None:
    """The SHA-256 of a file; None if there is none, and nothing that a file can have for a folder."""
    if not path.is_file():
        return "no file" if path.exists() else None
    with writing(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process changes the list of a folder; where the file system knows no locks, go on."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            pass
        yield
    finally:
        os.close(handle)


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
