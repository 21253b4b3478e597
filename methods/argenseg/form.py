"""The choices that make a variant of ARGenSeg; they belong to a checkpoint and travel in its config.json."""

from __future__ import annotations

from dataclasses import dataclass

from methods.argenseg.masks import CONVERSIONS
from methods.base import UserError
from methods.files import setting

CHOICES = {
    "intra_scale": ("causal", "full"),
    "order": ("scale", "token"),
    "head": ("tokens", "hidden"),
    "conversion": CONVERSIONS,
    "wording": ("plain", "released"),
}


@dataclass(frozen=True)
class Form:
    """How a mask is written and asked for. The defaults are the released method, save for `conversion`.

    intra_scale: within a scale a token sees the earlier ones ("causal", as released) or all ("full", as in VAR).
    order: a whole scale per step or one token per step; with causal attention the tokens are the same.
    head: "tokens", or "hidden": one step whose states are read out as the decoder's feature map, without any code.
    conversion: how masks become pictures and come back, see `masks.py`.
    wording: "released" adds the blanks and stops of the released evaluation's prompt.
    masks: how many masks an answer may hold; a prediction is their union.
    """

    intra_scale: str = "causal"
    order: str = "scale"
    head: str = "tokens"
    conversion: str = "direct"
    wording: str = "plain"
    masks: int = setting(1, 1, 10**4)

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"ARGenSeg has no {name} {getattr(self, name)!r}; choose {' or '.join(allowed)}.")
        if self.masks < 1:
            raise UserError(f"ARGenSeg cannot write {self.masks} masks in an answer; choose 1 or more.")
        if (self.intra_scale, self.order) == ("full", "token"):
            raise UserError("Tokens that see their whole scale cannot be written singly; use intra_scale causal.")
