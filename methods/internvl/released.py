"""Files of the official checkpoints; the old place of `methods.internvl.checkpoint.io`."""

from methods.internvl.checkpoint.io import read_file

__all__ = ["read_file"]
