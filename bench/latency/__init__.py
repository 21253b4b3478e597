"""Seconds per image: how they are measured and what they are made of."""
