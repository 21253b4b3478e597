"""Which options an answer names. What names none is a failure; `printed.letter` reads as an official script does."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bench.data.perception import LETTERS, plain

ONE = r"[(\[]?([A-Z])[)\]]?"
LIST = re.compile(rf"{ONE}(?:(?:\s*,?\s*(?:and|&)\s*|\s*[,;]\s*){ONE})*\s*\.?")
LEADING = re.compile(r"(?:[(\[]([A-Z])[)\]][.:,]?|([A-Z])[.:)])\s+\S.*", re.DOTALL)
ANNOUNCED = re.compile(  # perhaps behind a sentence or more
    r"(?:.*[.:;!?]\s+)?(?:the\s+)?(?:correct\s+|right\s+)?(?:answers?|options?|letters?)(?:\s+(?:is|are))?\s*:?\s+(.*)",
    re.IGNORECASE | re.DOTALL,
)


def read_letters(text: str, options: Sequence[str], several: bool = False) -> frozenset[str] | None:
    """The letters that an answer names, or None if it names none, or more than it may.

    Read are "B", "(B).", "B. the red car", "The answer is B" (after other sentences as well), "A, C", "A and C", and an
    option's own words. A letter within a sentence is not read: "A dog" is no answer.
    """
    text = text.replace("<|im_end|>", "").strip()
    letters = LETTERS[: len(options)]
    announced = ANNOUNCED.fullmatch(text)
    named = announced[1].strip() if announced else text
    named = named.upper() if len(named.rstrip(".")) == 1 else named
    leading = LEADING.fullmatch(named)
    if LIST.fullmatch(named):
        found = frozenset(re.findall(r"[A-Z]", named))
    elif leading:
        found = frozenset(leading[1] or leading[2])
    else:
        own = plain(text.rstrip("."))
        found = frozenset(letter for letter, option in zip(letters, options, strict=True) if plain(option) == own)
    if not found:
        return None
    return found if found <= set(letters) and (several or len(found) == 1) else None
