"""Wordings. The answer is the mask alone."""

SEGMENT_REQUEST = "Segment <ref>{phrase}</ref>."
