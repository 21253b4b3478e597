"""How a model is evaluated beside its usual way: other rules of decoding, fewer mask tokens, masks that are refined."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from bench.config import EvaluateConfig
from bench.records import REFINED
from bench.runtime import digest_of_files
from methods.base import Decoding, Model, Refiner, UserError
from methods.registry import method_spec, resolve


@dataclass(frozen=True)
class Variant:
    """rule, temperature: of decoding. tokens: mask tokens to write; None: all. refiner: the digest of what refines the
    masks; "": nothing does."""

    rule: str
    temperature: float = 1.0
    tokens: int | None = None
    refiner: str = ""

    @property
    def decoding(self) -> Decoding:
        return Decoding(rule=self.rule, temperature=self.temperature)

    @property
    def identity(self) -> dict[str, Any]:
        """What it adds to the identity of predictions; nothing for the usual way."""
        told: dict[str, Any] = {} if self.rule == "official" else {"rule": self.rule}
        told |= {"temperature": self.temperature} if self.rule == "expected" else {}
        told |= {"tokens": self.tokens} if self.tokens else {}
        return told | ({"refiner": self.refiner} if self.refiner else {})

    @property
    def facts(self) -> dict[str, Any]:
        """What it adds to the fields of records."""
        settings: dict[str, Any] = {} if self.rule == "official" else {"rule": self.rule}
        settings |= {"temperature": self.temperature} if self.rule == "expected" and self.temperature != 1 else {}
        settings |= REFINED if self.refiner else {}
        told: dict[str, Any] = {"variant": settings} if settings else {}
        return told | ({"tokens": self.tokens} if self.tokens else {})


@dataclass(frozen=True)
class Ways:
    """All ways in which a method's model is evaluated; those that are refined stand before the same that are not."""

    variants: tuple[Variant, ...]
    refiner: Refiner | None = None


def ways_of(config: EvaluateConfig, method: str, model: Model, tell: Callable[[str], None]) -> Ways:
    """The ways of a method's model. tell: what is called with a sentence on what it cannot do."""
    possible = model.mask_tokenizer.prefixes if model.mask_tokenizer is not None else ()
    counts = [count for count in config.tokens if count in possible]
    if len(counts) < len(config.tokens):
        known = ", ".join(map(str, possible)) or "none"
        tell(f"evaluate.tokens is {config.tokens}, but the numbers that can be requested of {method} are {known}")
    place, reference = config.refine, method_spec(method).refiner
    refiner = resolve(reference).from_pretrained(Path(place)).to(model.device) if place and reference else None
    refined = (digest_of_files(Path(place)), "") if refiner else ("",)
    ways = product(config.decode_rules, (None, *counts), refined)
    return Ways(tuple(Variant(rule, config.temperature, count, each) for rule, count, each in ways), refiner)


def check_refiner(config: EvaluateConfig, methods: Collection[str]) -> None:
    """Raise UserError if nothing can sharpen the masks of any of the methods where something is to, before a model is
    loaded."""
    if config.refine and not any(method_spec(name).refiner for name in methods):
        raise UserError(f"{' and '.join(methods)}: masks cannot be refined; leave evaluate.refine out.")
