"""What of a checkpoint's folder is there, by names, sizes and headers alone: no tensor is read, no torch imported."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from methods.base import UserError
from methods.files import fits, read_object

WEIGHTS, OLDER, INDEX = "model.safetensors", "pytorch_model.bin", ".index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")  # of which one has the words
READER = "sentencepiece"  # of tokenizer.model
COPY = "copy it again from where the checkpoint came from"
LARGEST_HEADER = 10**8  # bytes that a safetensors file may begin with
POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class FolderContent:
    """Files of weights that are there and their bytes; parameters by their headers, 0 where those tell nothing; faults:
    what is missing or not usable, a sentence each without the folder's name."""

    files: dict[str, int] = field(default_factory=dict)
    parameters: int = 0
    faults: tuple[str, ...] = ()


def content_of(folder: Path) -> FolderContent:
    """What a checkpoint's folder holds. Raises UserError where an index cannot be read."""
    if not folder.is_dir():
        return FolderContent(faults=("no such folder",))
    faults = [f"{name} is missing" for name in ("config.json",) if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in TOKENIZERS):
        faults.append(f"the tokenizer's files are missing ({' or '.join(TOKENIZERS)})")
    elif not (folder / "tokenizer.json").is_file() and (folder / "tokenizer.model").is_file() and not find_spec(READER):
        faults.append(f"tokenizer.model is read by {READER}, which is not installed; pip install -e '.[internlm2]'")
    files, parameters, broken = _weights(folder)
    return FolderContent(files, parameters, (*faults, *broken))


def check_folder(folder: Path) -> None:
    """Raise UserError with the first thing that is wrong with the files of weights in a checkpoint's folder, before any
    of them is read: a download that has stopped, a pointer, a missing file."""
    broken = _weights(folder)[2]
    if broken:
        raise UserError(f"{folder}: {broken[0]}.")


def _weights(folder: Path) -> tuple[dict[str, int], int, list[str]]:
    """(bytes of each file of weights, parameters, what is wrong) of a checkpoint's folder."""
    names = _names(folder)
    absent = [name for name in names if not (folder / name).is_file()]
    faults = [f"{len(absent)} of {len(names)} files of weights missing, such as {absent[0]}; {COPY}"] if absent else []
    files, parameters = {}, 0
    for name in names:
        path = folder / name
        if path.is_file():
            files[name] = path.stat().st_size
            count, fault = _header(path)
            parameters += count
            faults += [f"{name} {fault}"] if fault else []
    return files, parameters, faults


def fault_of(path: Path) -> str | None:
    """What is wrong with one file of tensors; None if nothing can be seen."""
    return _header(path)[1] if path.is_file() else "no such file"


def _names(folder: Path) -> list[str]:
    """The files of weights that a folder should have."""
    for name in (WEIGHTS, OLDER):
        index = folder / f"{name}{INDEX}"
        if index.is_file():
            placed = read_object(index, COPY).get("weight_map")
            if not placed or not fits(placed, dict[str, str]):
                raise UserError(f"{index}: names no files of weights; {COPY}.")
            return sorted({Path(file).name for file in placed.values()})
        if (folder / name).is_file():
            return [name]
    return [WEIGHTS]


def _header(path: Path) -> tuple[int, str | None]:
    """(parameters, what is wrong) of a file of tensors. Of torch's own form only the beginning is looked at."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
        if head.startswith(POINTER):
            return 0, "is a pointer of Git LFS instead of the weights; fetch them with `git lfs pull`"
        if not head or head.lstrip()[:1] == b"<":
            return 0, "is empty" if not head else "is a web page instead of the weights"
        if head[:4] == b"PK\x03\x04" or head[0] == 0x80:
            return 0, None
        length = int.from_bytes(head[:8], "little")
        if not 2 <= length <= LARGEST_HEADER:
            return 0, "is no file of tensors"
        file.seek(8)
        header = file.read(length)
    try:
        rows = [row for name, row in json.loads(header).items() if name != "__metadata__"]
        end = 8 + length + max(row["data_offsets"][1] for row in rows)
        parameters = sum(math.prod(row["shape"]) for row in rows)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError):
        return 0, f"is damaged; {COPY}"
    if size != end:
        return parameters, f"has {size:,} of {end:,} bytes, as if a download had stopped; {COPY}"
    return parameters, None
