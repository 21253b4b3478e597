"""The files of the REFER layout: `instances.json` (COCO) and `refs(<split_by>).json` or `.p` (a pickled list of dicts).

Pickles may hold builtin containers, strings and numbers only.
"""

from __future__ import annotations

import io
import pickle
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from bench.data.readers.places import NotThere
from methods.base import UserError
from methods.files import parse_json, read_bytes


def find_refs(folder: Path, split_by: str | None) -> Path:
    """The refs file of a folder. UserError if there is none, or several and `split_by` does not choose."""
    there = sorted(path for ending in ("json", "p") for path in folder.glob(f"*refs(*).{ending}"))
    found = [path for path in there if split_by is None or f"({split_by})" in path.name]
    names = ", ".join(path.name for path in (found or there))
    choices = sorted({path.stem.partition("(")[2].rstrip(")") for path in there})
    choice = f"choose with {' or '.join(f'split_by={choice}' for choice in choices)}"
    if not found and there:
        raise UserError(f"{folder}: has no refs({split_by}).json or .p, but {names}; {choice}.")
    if not found:
        wanted = f"refs({split_by or '<split_by>'}).json or .p"
        raise NotThere(f"{folder}: has no {wanted}; give the folder that holds it and instances.json.")
    if len({path.stem for path in found}) > 1:
        repair = choice if len(choices) > 1 else "leave one of them there"
        raise UserError(f"{folder}: has several refs files ({names}); {repair}.")
    if len(found) > 1:
        raise UserError(f"{folder}: has the referents twice ({names}), which may differ; leave one of the two there.")
    return found[0]


def find_folder(root: Path, name: str) -> Path:
    """The folder of a dataset's files: `root`, or its subfolder of that name. UserError if both hold one."""
    inner = root / name
    if not (inner / "instances.json").exists():
        return root
    if (root / "instances.json").exists() and any(root.glob("*refs(*).*")):
        raise UserError(f"{root}: both it and {inner} hold a dataset; give the folder that is meant as root.")
    return inner


def load(path: Path) -> Any:
    """The content of a JSON file or a pickle of builtin values. Raises UserError for anything else."""
    data = read_bytes(path, "give the folder of the dataset")
    return parse_json(data, path, "get the file again") if path.suffix == ".json" else unpickle(data, path)


class _Restricted(pickle.Unpickler):
    """Unpickles builtin values only: a pickle is a program, and a dataset has no need of one."""

    allowed = frozenset("set frozenset list dict tuple str int float bool bytes bytearray complex object".split())

    def find_class(self, module: str, name: str) -> Any:
        if module in ("builtins", "__builtin__") and name in self.allowed:
            return super().find_class("builtins", name)
        if (module, name) == ("_codecs", "encode"):  # how Python 3 pickles bytes in old protocols
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


def unpickle(data: bytes, path: Path) -> Any:
    """The value of a pickle of builtins; anything else in it is a UserError that names the class."""
    try:
        return _Restricted(io.BytesIO(data), encoding="utf-8").load()
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: asks for {error}, but may hold builtin values only; use the original file.") from None
    except Exception as error:  # a broken pickle may fail with any exception
        raise UserError(f"{path}: not a readable pickle ({error!r}); get the file again.") from None


def of_split(refs: Any, split: str, path: Path, styles: Collection[str] | None) -> tuple[list[dict[str, Any]], int]:
    """The referents of a split that have a sentence left, and how many sentences hold no words.

    Each kept sentence has its `position` among those of the file. A sentence without words asks nothing and is left
    out, as are those of other styles.
    """
    if not isinstance(refs, list):
        raise UserError(f"{path}: holds a {type(refs).__name__}, not a list of referents; get the file again.")
    kept, found, wordless = [], Counter[str](), 0
    for number, ref in enumerate(refs):
        try:
            found[ref["split"]] += 1
            if ref["split"] != split:
                continue
            sentences = [
                {**item, "position": position}
                for position, item in enumerate(ref["sentences"])
                if styles is None or item.get("style") in styles
            ]
            ids = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
            if not all(isinstance(value, int | str) for value in (ref["ref_id"], ref["image_id"], *ids)):
                raise TypeError("an id is neither a number nor text")
            if not all(isinstance(item["sent"], str) for item in sentences):
                raise TypeError("a sentence is not text")
            asked = [item for item in sentences if item["sent"].strip()]
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: entry {number} is no referent ({error!r}); correct or remove it.") from None
        wordless += len(sentences) - len(asked)
        if asked:
            kept.append({**ref, "sentences": asked})
    if split not in found:
        names = ", ".join(f"{name} ({count})" for name, count in sorted(found.items(), key=str))
        raise NotThere(f"{path}: has no split {split!r}; it has {names or 'no referents at all'}.")
    doubled = [name for name, count in Counter(str(ref["ref_id"]) for ref in kept).items() if count > 1]
    if doubled:
        raise UserError(
            f"{path}: several referents of split {split!r} have the ref_id {doubled[0]}; give each its own number."
        )
    if not kept:
        wanted = f"of split {split!r} has " + (f"a style of {sorted(styles)}" if styles else "any words")
        raise UserError(f"{path}: no sentence {wanted}; choose others.")
    return kept, wordless
