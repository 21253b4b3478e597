"""A file of predictions that grows batch by batch, in one process or many, and survives being killed.

Lines are appended to parts: `<name>.part` begins with the first batch, `<name>.part7` with batch 7. When every batch is
there, the parts in their order become `<name>`. Parts that belong to the same job (same weights, data and settings: its
stamp) are continued at the last whole batch, by any number of processes, so that every batch has the same members as in
an uninterrupted run of one process and the bytes are the same. Each process answers its own run of batches; requests
about one image follow each other, so that nearly all of an image's lie in one process. `<name>.part` is locked while
the file grows.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from glob import escape
from pathlib import Path
from typing import Any, TypeVar

from bench.data import rle
from bench.distributed import SINGLE_PROCESS, DistributedContext
from bench.progress import Progress
from methods.base import Example, Prediction, UserError
from methods.files import lock, write_atomic, writing

Item = TypeVar("Item")


def stamp_of(**facts: Any) -> str:
    """A short digest of everything that a file's content depends on."""
    return hashlib.sha256(settings_text(**facts).encode()).hexdigest()[:16]


def settings_text(**facts: Any) -> str:
    """The same to be read: the stamp of a file of predictions, from which `explain` tells why two files differ."""
    return json.dumps(facts, sort_keys=True, default=str)


def settings_of(path: Path) -> dict[str, Any]:
    """What a file of predictions was made with; nothing where no stamp of ours says it."""
    stamp_file = path.with_suffix(".stamp")
    try:
        found = json.loads(stamp_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_predictions(
    path: Path,
    stamp: str,
    items: Sequence[Item],
    batch: int,
    answer: Callable[[Sequence[Item]], list[dict[str, Any]]],
    context: DistributedContext = SINGLE_PROCESS,
) -> Path:
    """Answer items in batches of fixed members and write the lines to `path`, unless it is there already.

    answer: a batch of items -> one line per item. With many processes all must call this, and all return when the file
    is whole. Raises UserError if another command is writing the file, or if one of the processes is lost.
    """
    with ExitStack() as held:
        missing = _claim(path, stamp, len(items), batch, held) if context.first else None
        missing = context.gather(missing)[0]
        if missing is None:
            return path
        mine = missing[len(missing) * context.rank // context.size : len(missing) * (context.rank + 1) // context.size]
        ends = {start + _batches(part, batch): part for start, part in _parts(path).items()}
        with _progress(
            path.stem, len(items), sum(len(items[n * batch : (n + 1) * batch]) for n in mine), context
        ) as tell:
            for number in mine:
                lines = answer(items[number * batch : (number + 1) * batch])
                part = ends.pop(number, path.with_suffix(f".part{number}"))  # the one that ends before it, or a new one
                with writing(part), part.open("a", encoding="utf-8") as handle:
                    handle.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
                ends[number + 1] = part
                tell(len(lines))
        context.wait()
        if context.first:
            _join(path, batch)
        context.wait()
    return path


def _claim(path: Path, stamp: str, items: int, batch: int, held: ExitStack) -> list[int] | None:
    """Lock the file's first part, cut parts of the same job back to whole batches, and remove those of another job.

    Returns the batches that are not answered yet; None if the file is whole.
    """
    stamp_file, first = path.with_suffix(".stamp"), path.with_suffix(".part")
    if path.exists() and _content(stamp_file) == stamp:
        return None
    for each in (path, *_parts(path).values()):
        if not stamp_file.exists() and each.exists() and each.stat().st_size:
            raise UserError(f"{each}: was not written by genseg; move it elsewhere, or give another runs= folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = held.enter_context(first.open("a", encoding="utf-8"))
    lock(handle, first, "wait for it, or give another runs= folder")
    if _content(stamp_file) != stamp:
        path.unlink(missing_ok=True)
        for part in _parts(path).values():
            part.unlink() if part != first else os.truncate(part, 0)  # in place: another file would not be locked
        write_atomic(stamp_file, stamp)
    elif path.exists():  # another command has completed it since
        first.unlink()
        return None
    done = {start + i for start, part in _parts(path).items() for i in range(_whole_batches(part, batch))}
    return sorted(set(range(-(-items // batch))) - done)


def _parts(path: Path) -> dict[int, Path]:
    """First batch -> file, of the parts that are there, in order."""
    found = {}
    for part in path.parent.glob(f"{escape(path.stem)}.part*"):
        number = part.suffix.removeprefix(".part")
        if part.stem == path.stem and (number.isdecimal() or not number):
            found[int(number or 0)] = part
    return dict(sorted(found.items()))


@contextmanager
def _progress(name: str, items: int, mine: int, context: DistributedContext) -> Iterator[Callable[[int], None]]:
    """What to call with numbers of lines; the first process shows them, of many processes for its own share."""
    if not context.first:
        yield lambda count: None
        return
    alone = context.size == 1
    with Progress(name if alone else f"{name}, 1 of {context.size} shares", items if alone else mine,
                  items - mine if alone else 0) as progress:  # fmt: skip
        yield lambda count: progress.advance(by=count)


def _join(path: Path, batch: int) -> None:
    """Make the parts the file. A kill in between leaves parts that overlap; what a later one repeats is left out."""
    parts = _parts(path)
    first = parts.pop(0)
    with writing(first):
        with first.open("ab") as whole:
            for start, part in parts.items():
                rows = part.read_bytes().split(b"\n")[:-1]
                repeated = (_batches(first, batch) - start) * batch
                whole.write(b"".join(row + b"\n" for row in rows[repeated:]))
                whole.flush()
        first.rename(path)
    for part in parts.values():
        part.unlink()


def _batches(part: Path, batch: int) -> int:
    """How many whole batches a part has."""
    return part.read_bytes().count(b"\n") // batch


def _content(stamp_file: Path) -> str:
    return stamp_file.read_text() if stamp_file.exists() else ""


def _whole_batches(part: Path, batch: int) -> int:
    """Cut a part back to whole batches of whole lines -> how many stand.

    Works on bytes: the cut may lie within a character, and text has line ends of its own (U+2028) that JSON keeps.
    """
    whole = part.read_bytes().split(b"\n")[:-1]
    whole = whole[: len(whole) // batch * batch]
    os.truncate(part, sum(len(row) + 1 for row in whole))  # in place: another file would not be the locked one
    return len(whole) // batch


def line(
    example: Example, prediction: Prediction, protocol: str, sent_id: int, expressions: Sequence[str]
) -> dict[str, Any]:
    """One line of a predictions file."""
    return {
        "dataset": example.dataset,
        "split": example.split,
        "protocol": protocol,
        "ref_id": example.ref_id,
        "sent_id": sent_id,
        "image_id": example.image_id,
        "expression": " | ".join(expressions),
        "size": list(prediction.mask.shape),
        "mask": rle.encode(prediction.mask),
        "box": list(prediction.box) if prediction.box else None,
        "text": prediction.text,
        "token_ids": list(prediction.token_ids),
        "steps": prediction.steps,
        "failure": prediction.failure,
    } | ({} if prediction.corrections is None else {"corrections": prediction.corrections})
