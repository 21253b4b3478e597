"""Tokenizers: InternVL2.5's own from a checkpoint folder, or a small BPE trained here for the nano models.

Ids are always looked up by string: no id is written down anywhere in this project.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import logging

from methods.base import UserError
from methods.internvl import sentencepiece

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
IMAGE_START, IMAGE_END, IMAGE_CONTEXT = "<img>", "</img>", "<IMG_CONTEXT>"
SPECIALS = (
    END_OF_TEXT,
    TURN_START,
    TURN_END,
    IMAGE_START,
    IMAGE_END,
    IMAGE_CONTEXT,
    "<quad>",
    "</quad>",
    "<ref>",
    "</ref>",
    "<box>",
    "</box>",
)

# The published split rule of the Qwen2 family: contractions, words, single digits, punctuation, newlines, blanks.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `size` entries (the specials come on top) in the manner of Qwen2.

    Deterministic for a given sequence of texts.
    """
    return _with_specials(_train(texts, size))


def stand_in(rows: int, texts: Iterable[str] = ()) -> PreTrainedTokenizerFast:
    """A tokenizer of exactly `rows` entries for models with random weights: the bytes, what occurs often in the texts,
    entries that no text contains, and the specials."""
    rows -= len(SPECIALS)
    content = json.loads(_train(texts, min(rows, 2048)).to_str())
    vocabulary = content["model"]["vocab"]
    vocabulary |= {f"<unused {i}>": i for i in range(len(vocabulary), rows)}
    return _with_specials(Tokenizer.from_str(json.dumps(content)))


def _train(texts: Iterable[str], size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _with_specials(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=None, eos_token=None)
    add_tokens(fast, SPECIALS)
    return fast


def add_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> None:
    """Append special tokens that the tokenizer does not have yet, in order."""
    known = tokenizer.get_vocab()
    fresh = [AddedToken(token, special=True, normalized=False) for token in tokens if token not in known]
    tokenizer.add_tokens(fresh, special_tokens=True)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint folder, without remote code. Raises UserError if there is none."""
    if (folder / sentencepiece.MODEL).is_file() and not (folder / "tokenizer.json").is_file():
        return sentencepiece.load(folder)
    try:
        with _quiet():  # transformers knows no model of the name in an official config.json, and says so
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # damaged files fail in transformers with any exception
        reason = (str(error) or repr(error)).splitlines()[0]
        raise UserError(f"{folder}: no usable tokenizer ({reason}); copy the checkpoint's tokenizer files.") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' warnings."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """The id of one token string. Raises UserError if the tokenizer lacks it."""
    found = tokenizer.convert_tokens_to_ids(token)
    if found is None or tokenizer.convert_ids_to_tokens(found) != token:
        raise UserError(f"The tokenizer has no token {token!r}; extend its vocabulary before use.")
    return found
