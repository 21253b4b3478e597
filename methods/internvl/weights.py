"""Conversion of the backbone's checkpoints between the three layouts."""

from methods.internvl.checkpoint.native import convert

__all__ = ["convert"]
