"""The backbone alone: it answers with boxes, and is what the mask-writing methods start from."""
