"""InternLM2's tokenizer as a fast one, built from its tokenizer.model without its remote code.

The file is a protobuf of sentencepiece: field 1 repeats the pieces (1 text, 2 score, 3 type), field 3 holds the
normaliser (1 name, 3 whether a blank is put in front, 4 whether blanks are merged). A BPE's merges are not in it; they
follow from the scores: two pieces merge if their concatenation is a piece, the best score first.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from methods.base import UserError

MODEL = "tokenizer.model"
NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6  # types of pieces
BLANK = "\u2581"


class Piece(NamedTuple):
    text: str
    score: float
    kind: int


def load(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder that holds tokenizer.model. Raises UserError for another kind of model."""
    path = folder / MODEL
    try:
        pieces, normaliser = _read(path.read_bytes())
        settings, added = _settings(folder)
    except (OSError, ValueError, IndexError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise UserError(f"{path}: damaged, or the settings beside it are ({error}); download both again.") from None
    name = bytes(normaliser.get(1, b"identity")).decode(errors="replace")
    if name != "identity" or normaliser.get(4, 1) or not any(piece.kind == BYTE for piece in pieces):
        raise UserError(f"{path}: changes texts before they are cut ({name}); only InternLM2's model can be read.")
    for index, text in added.items():  # names that were given to unused pieces
        if index < len(pieces):
            pieces[index] = Piece(text, 0.0, CONTROL)
    tokenizer = _build(pieces, bool(normaliser.get(3, 1)))
    first = str(settings.get("bos_token", "<s>"))
    if settings.get("add_bos_token", True):
        begin = processors.TemplateProcessing(single=f"{first} $A", special_tokens=[(first, _place(tokenizer, first))])
        tokenizer.post_processor = begin
    later = [text for index, text in sorted(added.items()) if index >= len(pieces)]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in later])
    for index, text in added.items():
        if tokenizer.token_to_id(text) != index:
            raise UserError(f"{folder}: {text!r} should be token {index}; download the tokenizer's files again.")
    names = {key: str(settings[key]) for key in ("unk_token", "eos_token", "pad_token") if settings.get(key)}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=first, **names)


def _place(tokenizer: Tokenizer, text: str) -> int:
    found = tokenizer.token_to_id(text)
    if found is None:
        raise UserError(f"The tokenizer has no {text!r} to begin with; download its files again.")
    return found


def _settings(folder: Path) -> tuple[dict[str, Any], dict[int, str]]:
    """tokenizer_config.json with plain strings, and the added tokens by id, from it and added_tokens.json."""
    path, older = folder / "tokenizer_config.json", folder / "added_tokens.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    settings = {k: v["content"] if isinstance(v, dict) and "content" in v else v for k, v in settings.items()}
    added = {int(k): v["content"] for k, v in settings.get("added_tokens_decoder", {}).items()}
    if older.is_file():
        added |= {int(index): text for text, index in json.loads(older.read_text(encoding="utf-8")).items()}
    return settings, added


def _build(pieces: Sequence[Piece], blank_in_front: bool) -> Tokenizer:
    vocabulary = {piece.text: index for index, piece in enumerate(pieces)}
    unknown = next(piece.text for piece in pieces if piece.kind == UNKNOWN or piece.text == "<unk>")
    tokenizer = Tokenizer(models.BPE(vocabulary, _merges(pieces), unk_token=unknown, fuse_unk=True, byte_fallback=True))
    front = [normalizers.Prepend(BLANK)] if blank_in_front else []
    tokenizer.normalizer = normalizers.Sequence([*front, normalizers.Replace(" ", BLANK)])
    back = [decoders.Strip(" ", 1, 0)] if blank_in_front else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), *back]
    )
    control = [piece.text for piece in pieces if piece.kind in (CONTROL, UNKNOWN)]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in control])
    users = [piece.text for piece in pieces if piece.kind == USER]
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in users])
    return tokenizer


def _merges(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """Pairs in the order in which sentencepiece would merge them."""
    order = {piece.text: index for index, piece in enumerate(pieces) if piece.kind == NORMAL}
    found = []
    for piece in pieces:
        if piece.kind == NORMAL:
            for cut in range(1, len(piece.text)):
                left, right = piece.text[:cut], piece.text[cut:]
                if left in order and right in order:
                    found.append((-piece.score, order[piece.text], order[left], order[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


# ---- protobuf -------------------------------------------------------------------------------------------------------


def _read(data: bytes) -> tuple[list[Piece], dict[int, Any]]:
    """Pieces in the order of their ids, and the normaliser's fields by number."""
    pieces, normaliser = [], {}
    for number, value in _fields(data):
        if number == 1:
            piece = dict(_fields(value))
            score = struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0
            pieces.append(Piece(bytes(piece[1]).decode(), score, piece.get(3, NORMAL)))
        elif number == 3:
            normaliser = dict(_fields(value))
    if not pieces:
        raise ValueError("it holds no pieces")
    return pieces, normaliser


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a message's fields: an int, or the bytes of anything else."""
    place = 0
    while place < len(data):
        key, place = _number(data, place)
        kind = key & 7
        if kind == 0:
            value, place = _number(data, place)
        elif kind in (1, 2, 5):
            length, place = _number(data, place) if kind == 2 else ({1: 8, 5: 4}[kind], place)
            if place + length > len(data):
                raise ValueError("it ends too early")
            value, place = data[place : place + length], place + length
        else:
            raise ValueError(f"it is no protobuf (wire type {kind})")
        yield key >> 3, value


def _number(data: bytes, place: int) -> tuple[int, int]:
    """A variable-length integer and the place behind it."""
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
