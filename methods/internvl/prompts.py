"""Conversations that need no mask vocabulary: boxes as text, captions, questions. Shared by every method.

A task turns an example into turns. Wordings are the project's own; `{phrase}` stands for the expression(s). Boxes
are integers on InternVL's 0..1000 scale (`scale` says so, because HiMTok's runs to 999), in the order x1, y1, x2, y2.
"""

from __future__ import annotations

import re

import numpy as np

from methods.base import Box, Example, UserError
from methods.internvl.chat import IMAGE, Turn

BOX_REQUESTS = (
    "Where is <ref>{phrase}</ref>? Reply with a box.",
    "Give the box of <ref>{phrase}</ref>.",
    "Locate <ref>{phrase}</ref> with a box.",
)
BOX_ANSWER = "<box>{box}</box>"
BOX_PATTERN = re.compile(r"\[?\[\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\]\]?")
NUMBER = r"\s*(-?(?:\d+(?:\.\d*)?|\.\d+))\s*"
LOOSE_PATTERN = re.compile(rf"\[{NUMBER},{NUMBER},{NUMBER},{NUMBER}\]")


def join_expressions(expressions: tuple[str, ...], listed: bool = False) -> str:
    """One expression as it is (unless `listed`); several as a numbered list that all describe one object (HiMTok's
    evaluation)."""
    if len(expressions) == 1 and not listed:
        return expressions[0]
    return "Meet all the descriptions: " + "".join(f"{i}. {text}. " for i, text in enumerate(expressions, 1))


def with_image(text: str, image_first: bool) -> str:
    """The user's text with the image before it (InternVL's habit) or after it.

    A causal model's image tokens see only what stands before them. A backbone trained from scratch learns to ground
    several times sooner when it has read the expression before it looks.
    """
    return f"{IMAGE}\n{text}" if image_first else f"{text}\n{IMAGE}"


def write_box(box: Box, width: int, height: int, scale: int) -> str:
    """Pixels -> "[[x1, y1, x2, y2]]", rounded to integers of 0..scale."""
    fractions = (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
    return "[[" + ", ".join(str(min(scale, max(0, round(f * scale)))) for f in fractions) + "]]"


def read_box(text: str, width: int, height: int, scale: int) -> Box | None:
    """The first box in a text, in pixels, or None if there is none or it is empty."""
    found = BOX_PATTERN.search(text)
    if not found:
        return None
    x1, y1, x2, y2 = (int(group) / scale for group in found.groups())
    if x2 <= x1 or y2 <= y1:
        return None
    return x1 * width, y1 * height, x2 * width, y2 * height


def read_box_loosely(text: str, width: int, height: int, scale: int, square: bool = False) -> Box | None:
    """As official evaluations read a box: the first four numbers in brackets, as fractions of the image if they sum to
    less than 4, in float32. square: the image lies in the middle of a square."""
    found = LOOSE_PATTERN.search(text)
    if not found:
        return None
    sides = np.array(found.groups(), np.float32)
    sides = sides / np.float32(scale) if sides.sum() >= 4 else sides
    whole = max(width, height)
    place = np.array([whole, whole] if square else [width, height], np.float32)
    empty = np.array([whole - width, whole - height], np.float32) / 2 if square else np.zeros(2, np.float32)
    x1, y1, x2, y2 = (sides.reshape(2, 2) * place - empty).ravel().tolist()
    return x1, y1, x2, y2


def converse(
    example: Example, task: str, size: tuple[int, int], scale: int, image_first: bool, rng: np.random.Generator
) -> list[Turn]:
    """The turns of a shared task; `size` is the image's (width, height) in pixels.

    Tasks: "box" (expression -> box), "caption" and "question" (`expressions[0]` -> `answer`).
    Raises UserError for an unknown task or an example that lacks what the task needs.
    """
    if task == "box":
        if example.box is None:
            raise UserError(f"{example.dataset} sample {example.ref_id}: the task 'box' needs a box; use other data.")
        phrase = join_expressions(example.expressions)
        request = BOX_REQUESTS[rng.integers(len(BOX_REQUESTS))].format(phrase=phrase)
        answer = BOX_ANSWER.format(box=write_box(example.box, *size, scale))
    elif task in ("caption", "question"):
        if example.answer is None or not example.expressions:
            what = "an answer text" if example.expressions else "a question"
            raise UserError(f"{example.dataset} sample {example.ref_id}: the task {task!r} needs {what}.")
        request, answer = example.expressions[0], example.answer
    else:
        raise UserError(
            f"There is no task called {task!r}; choose box, caption, question, conversation or one of the method's own."
        )
    return [Turn("user", with_image(request, image_first)), Turn("assistant", answer)]
