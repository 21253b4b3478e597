"""Choices in the training of mask tokenizers that the methods share. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from methods.files import setting

AUGMENTATIONS = ("none", "shapes")  # see augment.py


@dataclass(frozen=True)
class RestartConfig:
    """Dead codes, see codebook_restart.py. warmup: passes before codes are placed for the first time; every: passes
    between later restarts; placed: the codes are trained ones, so that the first placement is not due."""

    warmup: int = setting(200, 0)
    every: int = setting(50, 1)
    placed: bool = False
