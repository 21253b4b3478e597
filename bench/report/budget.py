"""The error budget: where the points between 100 and a method's gIoU are lost, so that the next effort goes there.

With the gIoU `grid` of true masks on the mask tokenizer's grid, `bound` of true masks as tokens, `right` the share of
answers that mark the right object, and `found` the gIoU of these:

    100 - gIoU  =  (100 - grid) + (grid - bound) + bound * (1 - right) + right * (bound - found) + rest

that is: resize, mask tokenizer, localization, and writing the mask of the right object; the rest is what answers that
mark another object overlap the target by (negative: they win points).
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.records import BASELINE, BREAKDOWN, RECONSTRUCTION, RESIZE_ALONE, SCORE, Record
from bench.report.layout import Column, Figure, Table
from bench.report.names import place_name

PARTS = {
    "resize": "resize to the grid", "mask_tokenizer": "mask tokenizer", "localization": "another object",
    "writing": "the mask itself", "rest": "overlap by chance",
}  # fmt: skip
SIZES = ("small", "medium", "large")
COLUMNS = [
    Column("split", "split"),
    Column("method", "method", "method"),
    Column("giou", "gIoU", "percent"),
    *(Column(name, title, "percent", "points of gIoU lost by") for name, title in PARTS.items()),
    Column("bf_score", "reached", "percent", "BF"),
    Column("bf_bound", "bound", "percent", "BF"),
    *(Column(f"giou@{size}", size, "percent", "gIoU") for size in SIZES),
    *(Column(f"bound@{size}", size, "percent", "bound of gIoU") for size in SIZES),
]
NOTES = [
    "Points of gIoU that are lost on the way from the true mask (100) to the answers, in the order of the columns. "
    "Bound: true masks encoded and decoded. Small, medium and large: COCO's areas, cut at 32² and 96² pixels.",
    "Another object: the answer overlaps some other object of the image more than its target. Overlap by chance is "
    "what such answers still have in common with the target, which wins points back.",
]


def budgets(records: Sequence[Record]) -> list[Table]:
    """One table per dataset and protocol in which answers were divided by localization, with a row for each split and
    method."""
    rows: dict[tuple[str, str], list[dict[str, object]]] = {}
    places = {record.place for record in records if record.kind == BREAKDOWN}
    for place in sorted(places, key=lambda place: (place[1] != "val", place)):
        here = [record for record in records if record.place == place]
        methods = sorted({r.method for r in here if r.kind == BREAKDOWN and not r.method.startswith(BASELINE)})
        found = [row | {"split": place[1]} for name in methods if (row := _row(name, here, records))]
        rows.setdefault((place[0], place[2]), []).extend(found)
    return [Table(f"Error budget: {place_name(dataset, '', protocol)}".replace(" ,", ","), COLUMNS, own, NOTES)
            for (dataset, protocol), own in sorted(rows.items()) if own]  # fmt: skip


def _row(method: str, here: Sequence[Record], records: Sequence[Record]) -> dict[str, object] | None:
    """A method's line; None where its reconstruction bound was not measured."""
    plain = [r for r in here if r.method == method and not r.variant and not r.tokens]
    limits = {r.metric: r.value for r in plain if r.kind == BREAKDOWN and not r.group}
    scores = {r.metric: r.value for r in plain if r.kind == SCORE}
    bound, grid = bounds_of(method, here[0], records)
    if "giou" not in bound or not {"localization_accuracy", "giou"} <= limits.keys():
        return None
    right, found = limits["localization_accuracy"], limits.get("giou_localized", 0.0)
    lost = {
        "resize": 1 - grid["giou"] if grid else None,
        "mask_tokenizer": (grid["giou"] if grid else 1.0) - bound["giou"],
        "localization": bound["giou"] * (1 - right),
        "writing": right * (bound["giou"] - found),
        "rest": right * found - limits["giou"],
    }
    values = {"giou": limits["giou"], "bf_score": scores.get("bf_score"), "bf_bound": bound.get("bf_score")} | lost
    values |= {f"giou@{size}": scores.get(f"giou@{size}") for size in SIZES}
    values |= {f"bound@{size}": bound.get(f"giou@{size}") for size in SIZES}
    return {"method": method} | {name: Figure(value) for name, value in values.items() if value is not None}


def bounds_of(method: str, asked: Record, records: Sequence[Record]) -> tuple[dict[str, float], dict[str, float]]:
    """Metric -> value of true masks as all of the mask tokenizer's tokens, and of true masks on its grid alone."""
    wanted = (RECONSTRUCTION, method, asked.dataset, asked.split)
    mine = [r for r in records if (r.kind, r.method, r.dataset, r.split) == wanted]
    most = max((r.tokens or 0 for r in mine if not r.variant), default=0)
    whole = {r.metric: r.value for r in mine if not r.variant and (r.tokens or 0) == most}
    return whole, {r.metric: r.value for r in mine if r.variant == RESIZE_ALONE}
