"""How a call's time grows with what it is asked for: straight lines through measured points, as table and figure."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from bench.records import SCALING, Record
from bench.report.figures.style import STYLE, looks, shared_legend
from bench.report.layout import Column, Table
from bench.report.names import method_name

AXES = {
    "images": "images in a batch",
    "expressions": "expressions about one image",
    "tiles": "tiles of the image",
    "tokens": "mask tokens",
}
Curve = list[Record]  # of growing units
Curves = dict[str, dict[str, Curve]]  # axis -> label -> curve


def curves(records: Sequence[Record]) -> dict[str, Curves]:
    """Backbone -> its curves, with the dataset behind it where several were timed; the backbone of a trained model is
    the profile's name."""
    found: dict[str, Curves] = {}
    scaled = sorted((record for record in records if record.kind == SCALING), key=lambda record: record.units)
    places = {(record.backbone, record.dataset) for record in scaled}
    for record in scaled:
        alone = sum(name == record.backbone for name, _ in places) == 1
        place = record.backbone if alone else f"{record.backbone}.{record.dataset}"
        found.setdefault(place, {}).setdefault(record.axis, {}).setdefault(record.label, []).append(record)
    return {name: {axis: mine[axis] for axis in AXES if axis in mine} for name, mine in sorted(found.items())}


def line(curve: Curve) -> tuple[float, float, float]:
    """(fixed ms, ms per unit, share of the variance that the line explains) by least squares."""
    x, y = np.array([(record.units, record.value) for record in curve], float).T
    slope, fixed = np.polyfit(x, y, 1) if len(x) > 1 else (0.0, y[0])
    rest, spread = ((y - fixed - slope * x) ** 2).sum(), ((y - y.mean()) ** 2).sum()
    return float(fixed), float(slope), float(1 - rest / spread) if spread else 1.0


def tables(records: Sequence[Record]) -> list[Table]:
    """One table for each backbone: the fitted line of each method and axis, and the most units that a second holds."""
    names = ("method", "axis", "measured at", "fixed ms", "ms per unit", "R²", "most units per second")
    found = []
    for backbone, axes in curves(records).items():
        rows = []
        for axis, lines in axes.items():
            for name, curve in lines.items():
                fixed, slope, explained = line(curve)
                most = max(1e3 * record.units / record.value for record in curve)
                at = ", ".join(str(record.units) for record in curve)
                cells = name, AXES[axis], at, f"{fixed:.1f}", f"{slope:.2f}", f"{explained:.3f}", f"{most:.2f}"
                rows.append(dict(zip(names, cells, strict=True)))
        first = next(iter(next(iter(axes.values())).values()))[0]
        where = ", ".join(filter(None, [first.device, first.precision]))
        notes = ["Least squares through the medians of whole calls; images, expressions and tiles are those of a call."]
        found.append(Table(f"Scaling — {backbone}, {where}", [Column(name, name) for name in names], rows, notes))
    return found


def figures(records: Sequence[Record]) -> dict[str, Figure]:
    """Name -> a figure with a panel for each axis: medians with their intervals, and the fitted lines."""
    drawn = {}
    for backbone, axes in curves(records).items():
        known = looks(name for lines in axes.values() for name in lines)
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(3.1 * len(axes), 3.6))
            panels = figure.subplots(1, len(axes), squeeze=False)[0]
            for panel, (axis, lines) in zip(panels, axes.items(), strict=True):
                for name, curve in sorted(lines.items()):
                    _draw(panel, curve, name, *known[name])
                _finish(panel, axis, lines)
            panels[0].set_ylabel("ms per call")
            shared_legend(figure, panels, 3)
        drawn[f"scaling.{backbone}"] = figure
    return drawn


def _draw(panel: Axes, curve: Curve, name: str, colour: str, marker: str) -> None:
    x, y = np.array([(record.units, record.value) for record in curve], float).T
    ends = [[r.value - (r.value if r.low is None else r.low) for r in curve],
            [(r.value if r.high is None else r.high) - r.value for r in curve]]  # fmt: skip
    panel.errorbar(x, y, yerr=ends, color=colour, marker=marker, markersize=4, capsize=2, linestyle="none",
                   label=method_name(name))  # fmt: skip
    fixed, slope, _ = line(curve)
    fine = np.linspace(x.min(), x.max(), 100)
    panel.plot(fine, fixed + slope * fine, color=colour, linewidth=1)


def _finish(panel: Axes, axis: str, lines: dict[str, Curve]) -> None:
    """Plain ticks at what was measured; a logarithmic axis where methods differ tenfold (mask tokens)."""
    counts = sorted({record.units for curve in lines.values() for record in curve})
    panel.set(xlabel=AXES[axis])
    panel.set_ylim(bottom=0)
    kept = counts
    if counts[-1] > 16 * counts[0]:
        panel.set_xscale("log")
        kept = counts[-1:]
        for count in reversed(counts):
            kept = [count, *kept] if kept[0] / count >= 1.9 else kept
    panel.xaxis.set_major_locator(FixedLocator(kept))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticklabels([str(count) for count in kept])
