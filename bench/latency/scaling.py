"""Seconds of a call over what it is asked for: images in a batch, expressions about one image, tiles, mask tokens.

Each point is the median of some calls after one untimed. The report fits a line through the points of an axis: what a
call costs in any case, and what each further unit adds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bench.latency.measure import now, percentile_interval
from bench.progress import Progress
from bench.records import SCALING, Record
from methods.base import DEFAULT, Decoding, Model, Request
from methods.images import open_image

COUNTS = (1, 2, 4, 8)  # images in a batch, and expressions about one image
GRIDS = (1, 2, 4)  # tiles beside each other; more than one gets a thumbnail
CALLS = 10  # at most, for each point


def points(method: Model, requests: Sequence[Request], tile: int) -> Iterator[tuple[str, int, list[Request]]]:
    """(axis, units, the requests of one call). tile: side of a tile in pixels, 0 if images are never cut."""
    many = [requests[i % len(requests)] for i in range(max(COUNTS))]
    for count in COUNTS:
        yield "images", count, [replace(r, image=open_image(r.image).copy()) for r in many[:count]]
    for count in COUNTS:
        yield "expressions", count, [replace(r, image=many[0].image) for r in many[:count]]
    for grid in GRIDS if tile else ():
        image = open_image(many[0].image).resize((grid * tile, tile))
        yield "tiles", grid + (grid > 1), [replace(many[0], image=image)]
    for tokens in method.mask_tokenizer.prefixes if method.mask_tokenizer else ():
        yield "tokens", tokens, [replace(many[0], tokens=tokens)]


def scale(
    method: Model, requests: Sequence[Request], calls: int, tile: int, decoding: Decoding = DEFAULT, /, **identity: Any
) -> list[Record]:
    """A record of kind `scaling` for each point."""
    identity |= {"kind": SCALING, "metric": "median_ms"}
    work, records = list(points(method, requests, tile)), []
    calls = min(calls, CALLS)
    with Progress(f"scaling of {identity['method']}", len(work)) as progress:
        for axis, units, asked in work:
            method.segment(asked, decoding)
            seconds = np.array([_seconds(method, asked, decoding) for _ in range(calls)])
            low, high = (1e3 * bound for bound in percentile_interval(seconds, 0.5))
            value = 1e3 * float(np.median(seconds))
            found = {"value": value, "low": low, "high": high, "n": calls}
            records.append(Record(axis=axis, units=units, **found, **identity))
            progress.advance()
    return records


def _seconds(method: Model, asked: list[Request], decoding: Decoding) -> float:
    start = now(method.device)
    method.segment(asked, decoding)
    return now(method.device) - start
