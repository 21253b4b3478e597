"""The shared backbone: InternVL2.5 through transformers' native classes, without remote code."""
