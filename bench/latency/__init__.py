"""Seconds per picture: how they are measured and what they are made of."""
