"""What things are called where people read them; records and CSV files keep the short names."""

from __future__ import annotations

import re

from bench.records import BASELINE
from methods.registry import METHODS, method_spec

BASELINES = {
    "empty": "empty mask", "full": "whole image", "largest-object": "largest object", "random-object": "random object",
}  # fmt: skip
DATASETS = {
    "refmoji": "RefMoji", "refcoco": "RefCOCO", "refcoco+": "RefCOCO+", "refcocog": "RefCOCOg", "grefcoco": "gRefCOCO",
    "reasonseg": "ReasonSeg",
}  # fmt: skip
BACKEND = re.compile(r"\bbackend=(\w+)")
PROTOCOLS = {"per_expression": "each expression by itself", "per_object_joined": "all expressions of an object at once"}


def method_name(label: str) -> str:
    """A record's label as people read it: "himtok (rule=hard)" is HiMTok (rule=hard), "himtok (backend=official)" is
    HiMTok (official backend), "baseline:full" the trivial baseline that marks the whole image."""
    method, _, told = label.partition(" (")
    if method.startswith(BASELINE):
        name = BASELINES.get(method.removeprefix(BASELINE), method.removeprefix(BASELINE)) + " (baseline)"
    else:
        name = method_spec(method).title if method in METHODS else method
    told = BACKEND.sub(r"\1 backend", told)
    return f"{name} ({told}" if told else name


def place_name(dataset: str, split: str, protocol: str = "") -> str:
    """Where something was measured, as "RefMoji val, each expression by itself"."""
    words = f"{DATASETS.get(dataset, dataset)} {split}"
    return f"{words}, {PROTOCOLS.get(protocol, protocol)}" if protocol else words
