"""HiMTok's conversations with mask tokens. Wordings are the project's own; the families are the paper's.

"segment": expression -> mask. "segment_box": expression -> mask, then box: the mask comes first, so that the box can
be read off it (the paper's visual chain of thought).
"""

from __future__ import annotations

import numpy as np

from methods.internvl.chat import MASK

SEGMENT_REQUESTS = (
    "Segment <ref>{phrase}</ref>.",
    "Give the mask of <ref>{phrase}</ref>.",
    "Mark every pixel of <ref>{phrase}</ref>.",
)
SEGMENT_ANSWER = f"The mask: {MASK}."
SEGMENT_BOX_REQUESTS = (
    "Segment <ref>{phrase}</ref> and then report its box.",
    "First give the mask of <ref>{phrase}</ref>, then its box.",
    "Mark <ref>{phrase}</ref>, then box it.",
)
SEGMENT_BOX_ANSWER = f"The mask: {MASK}, box: <box>{{box}}</box>."
TASKS = ("segment", "segment_box")


def request_and_answer(task: str, phrase: str, box: str, rng: np.random.Generator) -> tuple[str, str]:
    """One wording of a mask task; `box` is written text and used by "segment_box" only."""
    if task == "segment":
        return SEGMENT_REQUESTS[rng.integers(len(SEGMENT_REQUESTS))].format(phrase=phrase), SEGMENT_ANSWER
    request = SEGMENT_BOX_REQUESTS[rng.integers(len(SEGMENT_BOX_REQUESTS))].format(phrase=phrase)
    return request, SEGMENT_BOX_ANSWER.format(box=box)
