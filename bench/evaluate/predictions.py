"""A file of predictions that grows batch by batch and survives being killed.

Lines are appended to `<name>.part`, which becomes `<name>` when the last one is written. A part that belongs to the
same job (same weights, data and settings: its stamp) is continued at the last whole batch, so that every batch has
the same members as in an uninterrupted run and the bytes are the same. The part is locked while it grows.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bench.data import rle
from bench.progress import Progress
from methods.base import Example, Prediction, UserError
from methods.files import lock, write_atomic, writing

Item = TypeVar("Item")


def stamp_of(**facts: Any) -> str:
    """A short digest of everything that a file's content depends on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def write_predictions(
    path: Path,
    stamp: str,
    items: Sequence[Item],
    batch: int,
    answer: Callable[[Sequence[Item]], list[dict[str, Any]]],
) -> Path:
    """Answer items in batches of fixed members and write the lines to `path`, unless it is there already.

    answer: a batch of items -> one line per item. Raises UserError if another process is writing the file.
    """
    stamp_file = path.with_suffix(".stamp")
    part = path.with_suffix(".part")
    if path.exists() and _content(stamp_file) == stamp:
        return path
    for each in (path, part):
        if not stamp_file.exists() and each.exists() and each.stat().st_size:
            raise UserError(f"{each}: was not written by genseg; move it elsewhere, or give another runs= folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with part.open("a", encoding="utf-8") as handle:
        lock(handle, part, "wait for it, or give another runs= folder")
        if _content(stamp_file) != stamp:
            path.unlink(missing_ok=True)
            handle.truncate(0)
            write_atomic(stamp_file, stamp)
        elif path.exists():  # another process has completed it since
            part.unlink()
            return path
        done = _whole_batches(part, batch)
        with Progress(path.stem, len(items), done) as progress:
            for start in range(done, len(items), batch):
                lines = answer(items[start : start + batch])
                with writing(part):
                    handle.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
                    handle.flush()
                progress.advance(by=len(lines))
        part.rename(path)
    return path


def _content(stamp_file: Path) -> str:
    return stamp_file.read_text() if stamp_file.exists() else ""


def _whole_batches(part: Path, batch: int) -> int:
    """Cut a part file back to whole batches of whole lines -> how many lines stand.

    Works on bytes: the cut may lie within a character, and text has line ends of its own (U+2028) that JSON keeps.
    """
    whole = part.read_bytes().split(b"\n")[:-1]
    whole = whole[: len(whole) // batch * batch]
    os.truncate(part, sum(len(row) + 1 for row in whole))  # in place: another file would not be the locked one
    return len(whole)


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
    }
