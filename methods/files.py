"""Where text, JSON and numbers enter, and where files leave: one place, so that input that cannot be used ends in one
sentence (`UserError`) with the file and the repair, and no reader ever sees half a file. Imports no torch."""

from __future__ import annotations

import difflib
import fcntl
import json
import math
import os
import re
import shutil
import tempfile
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from methods.base import UserError

T = TypeVar("T")
SHOWN = 60  # characters of a wrong value that a message quotes
SURROGATE = re.compile(r"[\ud800-\udfff]")
ESCAPED = re.compile(rb"\\u[dD][89a-fA-F]")  # how JSON writes a surrogate
KINDS = {
    str: "text", int: "a whole number", float: "a number", bool: "a truth value", list: "a list", dict: "an object",
}  # fmt: skip


# ---- text -------------------------------------------------------------------------------------------------------


def read_bytes(path: Path | str, repair: str) -> bytes:
    """A file's bytes. Raises UserError if it cannot be read; repair: what to do then, "give ..."."""
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{printable(path)}: cannot be read ({reason}); {repair}.") from None


def read_text(path: Path | str, repair: str) -> str:
    """A UTF-8 file's text, without a byte order mark. Raises UserError if it cannot be read."""
    return decode(read_bytes(path, repair), path, repair)


def decode(data: bytes, where: Path | str, repair: str) -> str:
    """UTF-8 bytes as text, without a byte order mark. Raises UserError naming the first byte that is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{printable(where)}: not UTF-8 text (byte {error.start}); {repair}.") from None


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """(number from 1, line) of all lines that are not blank. A line ends at a line feed alone: U+2028, form feeds and
    the like are text."""
    return [(number, line) for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1) if line.strip()]


def check_text(text: str, where: str) -> str:
    """The text itself. Raises UserError for a lone surrogate, which is no character and could not be written."""
    found = SURROGATE.search(text)
    if found:
        raise UserError(f"{where}: holds U+{ord(found[0]):04X}, half a character; write it in UTF-8.")
    return text


def printable(value: Any, limit: int = 0) -> str:
    """A value in a message: one line, what no terminal can print as escapes, cut to `limit` characters (0: not)."""
    text = str(value)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if not limit or len(text) <= limit else text[: limit - 3] + "..."


def file_name(*labels: str, join: str = "-") -> str:
    """Labels as one part of a path. All but letters, digits and a few signs, a leading dot, and the sign that joins
    them are percent-encoded as in URLs: different labels never share a file, and none leaves its folder."""
    return join.join(re.sub(rf"^\.|[^A-Za-z0-9_=,.-]|{re.escape(join)}", _percent, label) for label in labels)


def _percent(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass"))


# ---- JSON -------------------------------------------------------------------------------------------------------


def parse_json(data: bytes | str, where: Path | str, repair: str) -> Any:
    """The value of a JSON text. Raises UserError for what cannot be read: no JSON, nested too deeply, numbers of
    thousands of digits, lone surrogates."""
    raw = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
    try:
        value = json.loads(decode(raw, where, repair))
        if ESCAPED.search(raw):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise UserError(f"{printable(where)}: not usable JSON (nested too deeply); {repair}.") from None
    except UnicodeEncodeError as error:
        half = f"U+{ord(error.object[error.start]):04X}, half a character"
        raise UserError(f"{printable(where)}: holds {half}; write it in UTF-8.") from None
    except ValueError as error:
        raise UserError(f"{printable(where)}: not valid JSON ({printable(error, 200)}); {repair}.") from None
    return value


def read_json(path: Path | str, repair: str) -> Any:
    """The value of a JSON file. Raises UserError as `read_bytes` and `parse_json` do."""
    return parse_json(read_bytes(path, repair), path, repair)


def read_object(path: Path | str, repair: str) -> dict[str, Any]:
    """A JSON file that must hold an object."""
    value = read_json(path, repair)
    if not isinstance(value, dict):
        raise UserError(f"{printable(path)}: holds {kind_of(value)}, not an object; {repair}.")
    return value


def read_lines(path: Path | str, repair: str = "delete the line or write it again") -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSON-lines file with their line numbers from 1. Raises UserError with file and line."""
    rows = []
    for number, line in numbered_lines(read_text(path, "give a JSON-lines file")):
        row = parse_json(line, f"{path}, line {number}", repair)
        if not isinstance(row, dict):
            raise UserError(f"{printable(path)}, line {number}: not a JSON object; {repair}.")
        rows.append((number, row))
    return rows


# ---- values -----------------------------------------------------------------------------------------------------


def number(
    value: Any, where: str, low: float = -math.inf, high: float = math.inf, whole: bool = False, repair: str = ""
) -> Any:
    """A number within bounds (inclusive), from a number or the text of one; int if whole, else float.

    Raises UserError naming `where`, the value and what is allowed. A truth value is no number; NaN lies in no bounds.
    """
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        found: float = int(value) if whole and not isinstance(value, float) else float(value)
        if whole and found != int(found):
            raise ValueError
        if math.isfinite(found) and low <= found <= high:
            return int(found) if whole else found
    except (ValueError, OverflowError):
        pass
    least = f" of at least {low:g}" if math.isfinite(low) else ""
    most = f" {'and' if least else 'of'} at most {high:g}" if math.isfinite(high) else ""
    wanted = f"a whole number{least}{most}" if whole else f"a number{least}{most}"
    raise UserError(f"{where} is {quoted(value)}, but must be {wanted}{f'; {repair}' if repair else ''}.")


def quoted(value: Any) -> str:
    """A wrong value in a message, cut to a length that fits a line."""
    try:
        return printable(repr(value), SHOWN)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or a value nested as deep
        return kind_of(value)


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    return "nothing" if value is None else KINDS.get(type(value), f"a {type(value).__name__}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value has the type of an annotation. Floats are finite, whole numbers count as floats, truth
    values are no numbers, and text holds no lone surrogates."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in inner)
    if hint is float:
        return _is_number(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
    if hint is str:
        return isinstance(value, str) and not SURROGATE.search(value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, dict) and all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items())
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(value, list | tuple) and all(fits(each, inner[0]) for each in value)
    return value is None if hint is type(None) else isinstance(value, hint)


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


def setting(
    default: Any = MISSING, low: float | None = None, high: float | None = None, *, choices: Sequence[Any] = (),
    path: bool = False, factory: Any = MISSING,
) -> Any:  # fmt: skip
    """A dataclass field that says what its value (each of them, in a list or a mapping) may be: bounds of a number
    (inclusive), the only choices, or a path of the user's, in which a leading ~ is his home."""
    bounds = {name: value for name, value in (("low", low), ("high", high)) if value is not None}
    metadata = bounds | ({"choices": tuple(choices)} if choices else {}) | ({"path": True} if path else {})
    if factory is not MISSING:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def fill(cls: type[T], row: Any, where: Path | str, repair: str) -> T:
    """A dataclass from a JSON object, each value checked against its annotation and, with `setting`, its bounds. Lists
    become tuples where the annotation is one, and objects the dataclass that it names.

    Raises UserError naming the first field that is unknown, missing, of the wrong type or out of bounds; what the class
    itself refuses is named with `where` in front.
    """
    if not isinstance(row, dict):
        raise UserError(f"{printable(where)}: {kind_of(row)}, not an object; {repair}.")
    hints, known = _annotations(cls), {each.name: each for each in fields(cls)}  # type: ignore[arg-type]
    needed = {n for n, each in known.items() if each.default is MISSING and each.default_factory is MISSING}
    unknown, missing = sorted(map(str, row.keys() - known.keys())), sorted(needed - row.keys())
    if unknown or missing:
        fault = (
            f"unknown field {quoted(unknown[0])}{nearest(unknown[0], known)}" if unknown else f"no field {missing[0]!r}"
        )
        raise UserError(f"{printable(where)}: {fault}; {repair}.")
    place = printable(where)
    given = {name: _field(value, hints[name], f"{place}: {name}", repair) for name, value in row.items()}
    for name, value in row.items():
        _check_bounds(value, known[name].metadata, f"{place}: {name}", repair)
    try:
        return cls(**given)
    except UserError as error:
        raise UserError(f"{printable(where)}: {error}") from None


@cache
def _annotations(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields; evaluating them takes most of the time of reading a line."""
    return get_type_hints(cls)


def _field(value: Any, hint: Any, where: str, repair: str) -> Any:
    """A field's value in the type of its annotation."""
    inner = next((each for each in (hint, *get_args(hint)) if is_dataclass(each)), None)
    if isinstance(value, dict) and inner is not None:
        return fill(inner, value, where, repair)  # type: ignore[arg-type]
    if not fits(value, hint):
        wanted = KINDS[dict] if inner else KINDS.get(hint, f"of type {hint}")
        raise UserError(f"{where} is {quoted(value)}, not {wanted}; {repair}.")
    return tuple(value) if get_origin(hint) is tuple else value


def nearest(name: str, known: Iterable[str]) -> str:
    """The nearest known name, or all of them where none is near; to stand behind a message's wrong name."""
    known = sorted(map(str, known))
    near = difflib.get_close_matches(name, known, 1, 0.6)
    return f" (did you mean {near[0]!r}?)" if near else f" (known are {', '.join(known)})"


def _check_bounds(value: Any, allowed: Mapping[str, Any], where: str, repair: str) -> None:
    if "choices" in allowed and value not in allowed["choices"]:
        known = ", ".join(map(str, allowed["choices"]))
        raise UserError(f"{where} is {quoted(value)}, but must be one of {known}; {repair}.")
    if value is not None and allowed.keys() & {"low", "high"}:
        for each in value if isinstance(value, list | tuple) else [value]:
            number(each, where, allowed.get("low", -math.inf), allowed.get("high", math.inf), repair=repair)


# ---- writing ----------------------------------------------------------------------------------------------------


def write_atomic(path: Path | str, content: str | bytes) -> Path:
    """Write a file so that a reader, or a crash, never sees half of it. Raises UserError, naming the file, if the disk
    is full or the place cannot be written to."""
    path = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    return path


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn what goes wrong in the system while a file or folder is written, on a full disk for instance, into a
    UserError that names it. Libraries in Rust have no OSError: they tell the number in their text."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or "os error" in str(error) or "null byte" in str(error):
            raise unwritable(path, error) from None
        raise


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A draft beside `folder` that gets its name when all is written, so that `folder` is there whole or not at all.

    A draft that a kill left is written again; one that could not be finished is removed. Raises UserError if it cannot
    be written, or if `folder` holds anything.
    """
    draft = folder.parent / f".{folder.name}.part"
    with writing(folder):
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"{printable(folder)}: holds files already, which nothing may replace; give another place.")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            yield draft
            draft.rename(folder)
        except BaseException as error:
            shutil.rmtree(draft, ignore_errors=True)
            if isinstance(error, UserError):  # names the folder that was asked for, not its draft
                raise UserError(str(error).replace(printable(draft), printable(folder))) from None
            raise


def lock(handle: IO[Any], path: Path, repair: str) -> None:
    """Hold a file until it is closed. Raises UserError if another process holds it, or has put another in its place;
    where the file system knows no locks, nothing is held."""
    mine = True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = path.exists() and os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except BlockingIOError:
        mine = False
    except OSError:
        pass
    if not mine:
        raise UserError(f"{path}: another command is writing there; {repair}.")


def unwritable(path: Path | str, error: Exception) -> UserError:
    """What to tell the user when writing failed; never raised here."""
    reason = getattr(error, "strerror", None) or printable(error, 120)
    repair = "check the path, its permissions and the room left"
    return UserError(f"{printable(path)}: cannot be written ({reason}); {repair}.")


def write_lines(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write objects as JSON lines in the order given; NaN becomes null."""
    return write_atomic(path, "".join(json.dumps(_without_nan(row), ensure_ascii=False) + "\n" for row in rows))


def _without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
