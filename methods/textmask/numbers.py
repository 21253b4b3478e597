"""Lists of integers as text: "," between numbers, ";" between lists. Each character is one token.

No separator stands beside another and there are no blanks, so that Qwen2's tokenizer, which keeps digits apart and
would join punctuation, reads the text character by character.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

DIGITS, NEXT, NEW, END = "0123456789", ",", ";", "."
LONGEST = 4  # digits of a number that is read


class Malformed(Exception):
    """A text that is no mask. The message says why, in a few words that are the same for all texts of a kind."""


def join(lists: Iterable[Sequence[int]]) -> str:
    """[[1, 2], [3]] -> "1,2;3"."""
    return NEW.join(NEXT.join(map(str, each)) for each in lists)


def parse(text: str) -> list[list[int]]:
    """The inverse of `join`. Blanks are skipped, and so are separators at the end. Raises Malformed."""
    text = re.sub(r"\s", "", text).rstrip(NEXT + NEW)
    if re.search(r"[^0-9,;]", text):
        raise Malformed("it holds more than numbers and separators")
    lists = [each.split(NEXT) for each in text.split(NEW)] if text else []
    if any(number == "" for each in lists for number in each):
        raise Malformed("a number is missing between two separators")
    if any(len(number) > LONGEST for each in lists for number in each):
        raise Malformed("a number is too large")
    return [[int(number) for number in each] for each in lists]


def next_digits(begun: str, low: int, high: int) -> str:
    """The digits that may follow those of a number of low..high, which has no leading zero."""
    return "".join(digit for digit in DIGITS if _reaches(begun + digit, low, high))


def _reaches(digits: str, low: int, high: int) -> bool:
    """Whether a number of low..high begins with the digits."""
    if digits[0] == "0":
        return digits == "0" and low <= 0
    first = last = int(digits)
    while first <= high:
        if last >= low:
            return True
        first, last = 10 * first, 10 * last + 9
    return False
