"""One comparison of this code with a reference answer. Imports no torch, so that metrics can be checked without it."""

from __future__ import annotations

from typing import Any, NamedTuple


class Check(NamedTuple):
    """For tensors `value` is the largest difference and `reference` the tolerance."""

    name: str
    value: Any
    reference: Any
    ok: bool
