"""InternLM2's tokenizer as a fast one, built from its tokenizer.model without its remote code.

The file is sentencepiece's (extra `internlm2`): pieces with scores and types, and a normaliser. A BPE's merges are not
in it; they follow from the scores: two pieces merge if their concatenation is a piece, the best score first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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
        pieces, normaliser = _read(path)
        settings, added = _settings(folder)
    except (OSError, ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged, or the settings beside it are ({error}); copy both again.") from None
    name = normaliser.name or "identity"
    known = {piece.kind for piece in pieces} >= {BYTE, UNKNOWN}
    if name != "identity" or normaliser.remove_extra_whitespaces or not known:
        raise UserError(f"{path}: changes texts before they are cut ({name}); only InternLM2's model can be read.")
    for index, text in added.items():  # names given to unused pieces; others, as <unk>, are listed under their own
        if index < len(pieces) and pieces[index].text != text:
            pieces[index] = Piece(text, 0.0, CONTROL)
    tokenizer = _build(pieces, normaliser.add_dummy_prefix)
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
    unknown = next(piece.text for piece in pieces if piece.kind == UNKNOWN)
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


def _read(path: Path) -> tuple[list[Piece], Any]:
    """Pieces in the order of their ids, and the normaliser's specification. Raises ValueError if it holds neither."""
    try:
        from google.protobuf.message import DecodeError
        from sentencepiece.sentencepiece_model_pb2 import ModelProto
    except ImportError:
        raise UserError(
            f"{path}: InternLM2's tokenizer needs sentencepiece; install it with `pip install sentencepiece protobuf`."
        ) from None
    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ValueError(str(error)) from None
    if not model.pieces:
        raise ValueError("it holds no pieces")
    return [Piece(piece.piece, piece.score, piece.type) for piece in model.pieces], model.normalizer_spec
