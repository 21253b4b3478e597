"""The shared trainer: one loop for every method and every stage, driven by a profile."""
