"""A file of predictions that grows batch by batch and survives being killed.

Lines are appended to `<name>.part`, which becomes `<name>` when the last one is written. A part that belongs to the
same job (same weights, data and settings: its stamp) is continued at the last whole batch, so that every batch has
the same members as in an uninterrupted run and the bytes are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bench.evaluate import rle
from bench.progress import Progress
from bench.records import write_atomic
from methods.base import Example, Prediction

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

    answer: a batch of items -> one line per item.
    """
    stamp_file = path.with_suffix(".stamp")
    part = path.with_suffix(".part")
    known = stamp_file.read_text() if stamp_file.exists() else ""
    if known != stamp:
        for stale in (path, part):
            stale.unlink(missing_ok=True)
        write_atomic(stamp_file, stamp)
    if path.exists():
        return path
    done = _whole_batches(part, batch)
    with Progress(path.stem, len(items), done) as progress, part.open("a", encoding="utf-8") as handle:
        for start in range(done, len(items), batch):
            lines = answer(items[start : start + batch])
            handle.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
            handle.flush()
            progress.advance(by=len(lines))
    part.rename(path)
    return path


def _whole_batches(part: Path, batch: int) -> int:
    """Cut a part file back to whole batches of whole lines -> how many lines stand.

    Works on bytes: the cut may lie within a character, and text has line ends of its own (U+2028) that JSON keeps.
    """
    if not part.exists():
        return 0
    whole = part.read_bytes().split(b"\n")[:-1]
    whole = whole[: len(whole) // batch * batch]
    write_atomic(part, b"".join(row + b"\n" for row in whole))
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
