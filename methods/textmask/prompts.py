"""Wordings. What is asked for names the budget, so that one model can serve several; the answer is the mask alone."""

SEGMENT_REQUESTS = {
    "polygon": "Outline <ref>{phrase}</ref> with at most {budget} points.",
    "rows": "Write the mask of <ref>{phrase}</ref> in rows of {budget} cells.",
}
