"""ARGenSeg's conversations with an image: of the mask, or of a caption.

The wording of "segment" is the official evaluation's; "official" adds its blanks and full stops.
"""

from __future__ import annotations

from methods.internvl.chat import MASK

SEGMENT_REQUEST = "Given the following instructions: {phrase}; please perform referring segmentation on this image."
SEGMENT_ANSWER = f"Sure, the segmentation result: {MASK}."
NO_PROMPT = "Please generate a picture about nothing."  # what guidance compares with
GENERATE_PREFIX = "The picture is as follows: "
GENERATE_ANSWER = f"{GENERATE_PREFIX}{MASK}."
UNPROMPTED = 0.2  # share of captions that are replaced by NO_PROMPT in training


def segment_request(expressions: tuple[str, ...], wording: str, evaluation: bool) -> str:
    """The user's text. The release trains on expressions joined by commas, and evaluates on " one. other."."""
    if wording == "plain":
        return SEGMENT_REQUEST.format(phrase=", ".join(expressions))
    phrase = "".join(f" {text}." for text in expressions) if evaluation else ", ".join(expressions)
    return " " + SEGMENT_REQUEST.format(phrase=phrase)
