"""ARGenSeg's conversations with a picture of the mask. The wording of "segment" is the released evaluation's."""

from __future__ import annotations

from methods.internvl.chat import MASK

SEGMENT_REQUEST = "Given the following instructions: {phrase}; please perform referring segmentation on this image."
SEGMENT_ANSWER = f"Sure, the segmentation result: {MASK}."
TASKS = ("segment",)
