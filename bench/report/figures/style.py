"""What all figures share: colours, sizes for one column of a paper, names at the ends of curves, and the files.

Colours are Okabe and Ito's, which people with any colour vision can tell apart; methods differ in marker too.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from PIL import Image

from bench.records import Record
from bench.report.tables import row_order
from methods.registry import METHODS

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#767676"
WIDTH = 3.4  # inches: a column of a paper
SMALL = 7  # points: names, ticks and legends
STYLE = {
    "font.size": 8,
    "font.sans-serif": ["DejaVu Sans"],
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "genseg",
    "svg.fonttype": "none",  # words as words: a third of the size, and they can be searched
    "figure.constrained_layout.use": True,
}
NAMELESS: Mapping[str, dict[str, None]] = {
    "png": {"Software": None}, "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}  # kinds of files, without the metadata in which they would differ from one day or version to the next  # fmt: skip
DOTS = 200  # per inch of a PNG


class Look(NamedTuple):
    """How a method is drawn."""

    colour: str
    marker: str


class End(NamedTuple):
    """A name for a curve, and where it ends."""

    y: float
    x: float
    name: str
    colour: str


def files_of(figure: Figure, name: str) -> dict[str, bytes]:
    """name.png (256 colours, a third of the size), name.svg and name.pdf, without a date or a program's name. The
    figure's layout is fixed by that."""
    files = {}
    with matplotlib.rc_context(STYLE):
        figure.draw_without_rendering()  # finds the layout, once for all kinds
    figure.set_layout_engine(None)
    for kind, metadata in NAMELESS.items():
        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE | {"figure.constrained_layout.use": False}):
            figure.savefig(buffer, format=kind, dpi=DOTS, metadata=metadata)
        data = buffer.getvalue()
        if kind == "png":
            image = Image.open(buffer, formats=("PNG",)).convert("RGB").quantize(256)
            image.save(small := io.BytesIO(), "png", optimize=True)
            data = small.getvalue()
        elif kind == "svg":
            data = _compact(data)
        files[f"{name}.{kind}"] = data
    return files


def _compact(svg: bytes) -> bytes:
    """Half the size: a tenth of a point is enough, no turn is none, each style is told once, nobody reads indentation
    or the names of groups."""
    svg = re.sub(rb' (?:d|x|y)="[^"]+"', lambda place: re.sub(rb"(\.\d)\d+", rb"\1", place[0]), svg)
    svg = re.sub(rb' transform="rotate\(-0 [^"]*"', b"", svg)
    svg = re.sub(rb"\n +", b"\n", re.sub(rb'<g id="[^"]*">', b"<g>", svg))
    styles = list(dict.fromkeys(re.findall(rb'style="([^"]*)"', svg)))
    svg = re.sub(rb'style="([^"]*)"', lambda style: b'class="s%d"' % styles.index(style[1]), svg)
    rules = b"".join(b".s%d{%s}" % pair for pair in enumerate(styles))
    return svg.replace(b"</style>", rules + b"</style>", 1)


def look_of(method: str) -> Look:
    """The look of a registered method, which is the same in every figure; that of others is black."""
    known = sorted(METHODS)
    rank = known.index(method) % (len(COLOURS) - 1) if method in known else len(COLOURS) - 1
    return Look(COLOURS[rank], MARKERS[rank])


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """Label -> its look: that of the method, and what looks already taken leave over for its variants and for methods
    that are not registered. No look comes twice among the first 42."""
    found: dict[str, Look] = {}
    spare = [Look(colour, MARKERS[(i + turn) % len(MARKERS)]) for turn in range(len(MARKERS))
             for i, colour in enumerate(COLOURS)]  # fmt: skip
    ordered = sorted(set(labels), key=row_order)
    for label in sorted(ordered, key=lambda label: label not in METHODS):
        own = look_of(label)
        free = [own] * (label in METHODS) + spare
        taken = set(found.values())
        found[label] = next((look for look in free if look not in taken), own)
    return {label: found[label] for label in ordered}


def reach(record: Record) -> list[list[float]]:
    """How far an interval reaches to both sides, in points; no way where there is none."""
    low, high = (record.value if bound is None else bound for bound in (record.low, record.high))
    return [[max(0.0, 100 * (record.value - low))], [max(0.0, 100 * (high - record.value))]]


def name_ends(axis: Axes, ends: Sequence[End], height: float) -> None:
    """The names of curves beside their ends, at the right of a panel `height` inches high, moved apart where they would
    touch. The limits of the y-axis must stand."""
    low, high = axis.get_ylim()
    log = axis.get_yscale() == "log"
    place = (lambda y: math.log(y / low) / math.log(high / low)) if log else (lambda y: (y - low) / (high - low))
    gap = 1.25 * SMALL / 72 / height
    for end, y in zip(sorted(ends), _apart([place(end.y) for end in sorted(ends)], gap), strict=True):
        axis.annotate(end.name, (end.x, end.y), (1.04, y), textcoords="axes fraction", fontsize=SMALL, color=end.colour,
                      va="center", annotation_clip=False,
                      arrowprops={"arrowstyle": "-", "color": "#aaaaaa", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 3}
                      )  # fmt: skip


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """Rising places moved as little as it takes to stand `gap` apart, below 1 where there is room."""
    groups: list[list[float]] = []  # of places that touch: [sum of (place - rank * gap), number]
    for place in places:
        groups.append([place, 1])
        while len(groups) > 1 and _start(groups[-2]) + groups[-2][1] * gap > _start(groups[-1]):
            total, count = groups.pop()
            groups[-1][0] += total - groups[-1][1] * gap * count
            groups[-1][1] += count
    found = [_start(group) + rank * gap for group in groups for rank in range(int(group[1]))]
    over = max(0.0, found[-1] - 1) if found else 0.0
    return [place - over for place in found]


def _start(group: Sequence[float]) -> float:
    return group[0] / group[1]


def log_ticks(axis: Axis, low: float, high: float, steps: Sequence[int] = (1, 2, 5)) -> None:
    """Ticks at these multiples of the powers of ten (powers alone if those are many), printed as plain numbers."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = steps if len(decades) <= 4 else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def shared_legend(figure: Figure, panels: Iterable[Axes], columns: int) -> None:
    """One legend above all panels, each name once, as it looks in the first panel that has it."""
    known: dict[str, Any] = {}
    for panel in panels:
        for handle, name in zip(*panel.get_legend_handles_labels(), strict=True):
            known.setdefault(name, handle)
    if known:
        columns = min(columns, len(known))
        figure.legend(known.values(), known.keys(), loc="outside upper center", ncols=columns)
