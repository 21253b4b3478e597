"""Training some samples on the first scales only.

Most of a mask's tokens belong to the last scales and most of what they say is in the first: with the first seven of ten
scales (155 of 680 tokens) a mask is nearly as good. A sample cut after them costs a third of a whole one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from methods.base import TrainingSample, UserError
from methods.files import setting

if TYPE_CHECKING:
    from methods.argenseg.config import Variant


@dataclass(frozen=True)
class Prefix:
    """share: of the images whose samples keep the first `scales` scales only (0: none, as published). All samples of an
    image are alike, so that a micro-batch of one image needs no padding."""

    share: float = setting(0.0, 0, 1)
    scales: int = setting(7, 1, 64)

    def check(self, scales: int, variant: Variant) -> None:
        """Raise UserError if a model of that many scales and that variant cannot be trained so."""
        if not 0 <= self.share <= 1:
            raise UserError(f"model.prefix.share is {self.share}; give a share of the samples, 0 to 1.")
        if self.share and not 1 <= self.scales < scales:
            raise UserError(f"model.prefix.scales is {self.scales} of {scales} scales; give 1 to {scales - 1}.")
        if self.share and (variant.head, variant.intra_scale) != ("tokens", "causal"):
            raise UserError(
                "model.prefix needs the head tokens and intra_scale causal; leave it out or change variant."
            )

    def shortened(
        self, sample: TrainingSample, start_id: int, prefixes: Sequence[int], rng: np.random.Generator
    ) -> TrainingSample:
        """The sample, its blocks cut if its image is among the share. prefixes: tokens up to the end of each scale.
        What is drawn follows from the seed of `rng`, which the samples of an image share, not from its state."""
        if not self.share or start_id not in sample.ids:
            return sample
        seed = np.random.SeedSequence(rng.bit_generator.seed_seq.entropy, spawn_key=(1,))
        if np.random.default_rng(seed).random() >= self.share:
            return sample
        kept, whole = prefixes[self.scales - 1], prefixes[-1]
        starts = [place for place, token in enumerate(sample.ids) if token == start_id]
        left = np.ones(len(sample.ids), bool)
        for start in starts:
            left[start + kept : start + whole] = False
        ids, labels = (np.asarray(values)[left].tolist() for values in (sample.ids, sample.labels))
        return replace(sample, ids=ids, labels=labels)
