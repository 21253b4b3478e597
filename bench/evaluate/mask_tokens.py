"""Mask files into the tokens of a mask tokenizer, and back: `genseg encode` and `genseg decode`.

A line of tokens: {"file": name of the mask's file, "size": [H, W], "token_ids": ids counted from 0 in the mask
vocabulary}.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.evaluate.exchange import read_mask
from bench.outputs import check_new
from bench.runtime import device_of
from methods.base import MaskTokenizer, UserError
from methods.files import fits, printable, quoted, read_lines, whole_folder, write_lines
from methods.images import MOST_PIXELS
from methods.registry import method_spec, resolve

BATCH = 16


def load_mask_tokenizer(method: str, path: Path) -> MaskTokenizer:
    """The mask tokenizer of a method: of a whole model's folder, of the folder of its own training, or of an official
    file. Raises UserError if the method has none that turns tokens into masks, or as loading does."""
    spec = method_spec(method)
    own = next((stage.trainee for stage in spec.stages.values() if stage.mask_tokenizer), spec.model)
    found = resolve(own).from_pretrained(path).to(device_of()).mask_tokenizer
    if found is None:
        raise UserError(f"{method} has no mask tokenizer; choose a method that writes masks.")
    if not found.prefixes:
        raise UserError(f"{method} decodes no mask from its tokens alone; choose a method that does.")
    return found


@torch.inference_mode()
def encode_files(source: Path, target: Path, mask_tokenizer: MaskTokenizer, tokens: int = 0) -> Iterator[str]:
    """Encode a mask, or the PNG files of a folder in the order of their names, to lines of tokens in `target`; tokens:
    the first so many (0 for all). Yields a line for the user on each mask: how well it is reconstructed from them.

    Raises UserError for a file that is no mask, and if something is in the target's place."""
    files = sorted(source.glob("*.png")) if source.is_dir() else [source]
    if not files:
        raise UserError(f"{printable(source)}: holds no PNG masks; give a mask or a folder of them.")
    check_new(target)
    count = _checked(tokens, mask_tokenizer)
    lines: list[dict[str, Any]] = []
    for start in range(0, len(files), BATCH):
        names, masks = files[start : start + BATCH], [read_mask(path) for path in files[start : start + BATCH]]
        views = torch.from_numpy(np.stack([mask_tokenizer.preprocess_mask(mask) for mask in masks]))[:, None]
        ids = mask_tokenizer.encode(views.to(device_of()), count)
        for path, mask, row, found in zip(names, masks, ids.tolist(), mask_tokenizer.decode(ids), strict=True):
            lines.append({"file": path.name, "size": list(mask.shape), "token_ids": row})
            again = mask_tokenizer.postprocess_mask(found, mask.shape)
            union = (mask | again).sum()
            yield f"{path.name}: reconstruction IoU {(mask & again).sum() / union if union else 1.0:.3f}"
    write_lines(target, lines)
    yield f"{target}: {len(lines)} masks in {count} tokens each"


@torch.inference_mode()
def decode_file(source: Path, target: Path, mask_tokenizer: MaskTokenizer, tokens: int = 0) -> Iterator[str]:
    """Decode lines of tokens to PNG masks (0 and 255) in the new folder `target`; tokens: from the first so many (0 for
    all that a line has). Yields a line for the user.

    Raises UserError, naming the line, for one that this mask tokenizer cannot decode."""
    rows = [(f"{source}, line {number}", row) for number, row in read_lines(source, "write the tokens again")]
    if not rows:
        raise UserError(f"{printable(source)}: holds no tokens; write them with `genseg encode`.")
    for where, row in rows:
        _check_line(row, where, mask_tokenizer)
    names = [Path(row["file"]).stem + ".png" for _, row in rows]
    repeated = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if repeated:
        raise UserError(f"{printable(source)}: two lines are of {quoted(repeated)}; rename one.")
    check_new(target)
    with whole_folder(target) as folder:
        for (where, row), name in zip(rows, names, strict=True):
            count = _checked(tokens, mask_tokenizer) if tokens else len(row["token_ids"])
            if count > len(row["token_ids"]):
                raise UserError(f"{where}: has {len(row['token_ids'])} tokens, not {count}; give a smaller tokens=.")
            ids = torch.tensor([row["token_ids"][:count]], device=device_of())
            mask = mask_tokenizer.postprocess_mask(mask_tokenizer.decode(ids)[0], tuple(row["size"]))
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / name)
    yield f"{target}: {len(rows)} masks"


def _checked(tokens: int, mask_tokenizer: MaskTokenizer) -> int:
    """A number of tokens from which a mask can be decoded; all of them for 0."""
    if tokens and tokens not in mask_tokenizer.prefixes:
        raise UserError(f"No mask is decoded from {tokens} tokens; choose one of {_listed(mask_tokenizer.prefixes)}.")
    return tokens or mask_tokenizer.length


def _check_line(row: dict[str, Any], where: str, mask_tokenizer: MaskTokenizer) -> None:
    if not fits(row.get("file"), str) or Path(row["file"]).name != row["file"] or row["file"] in ("", ".", ".."):
        raise UserError(f"{where}: file is {quoted(row.get('file'))}; write the name of a mask's file.")
    size: Any = row.get("size")
    ids: Any = row.get("token_ids")
    sides = size if fits(size, list[int]) and len(size) == 2 else [0, 0]
    if min(sides) < 1 or sides[0] * sides[1] > MOST_PIXELS:
        raise UserError(f"{where}: size is {quoted(size)}; write height and width in pixels.")
    if not fits(ids, list[int]) or not all(0 <= each < mask_tokenizer.size for each in ids):
        raise UserError(f"{where}: token_ids are no list of numbers from 0 to {mask_tokenizer.size - 1}.")
    if len(ids) not in mask_tokenizer.prefixes:
        told = f"this mask tokenizer decodes {_listed(mask_tokenizer.prefixes)}"
        raise UserError(f"{where}: has {len(ids)} tokens; {told}.")


def _listed(counts: Sequence[int]) -> str:
    return ", ".join(map(str, counts))
