"""Accuracy at a glance: on every split, and by the size of objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.records import BASELINE, Record
from bench.report.budget import SIZES, bounds_of
from bench.report.figures.style import GREY, STYLE, WIDTH, End, Look, looks, name_ends, reach, shared_legend
from bench.report.names import PROTOCOLS, method_name, place_name
from bench.report.tables import row_order, scores_of

LINE = 0.32  # inches for a split
HEIGHT = 2.4
DODGE = 0.07  # between methods, so that their intervals do not hide each other
INNER = 0.7  # of the height that the axes have
AREAS = dict(zip(SIZES, ("small\n< 32² px", "medium", "large\n> 96² px"), strict=True))


def accuracy_splits(records: Sequence[Record], metric: str = "ciou", title: str = "cIoU (%)") -> Figure | None:
    """A line per dataset and split, a panel per protocol: the methods with their 95 % intervals, and in grey the best
    baseline that looks at no expression. None unless several places were scored."""
    scored = [r for r in scores_of(records) if r.metric == metric]
    methods = [r for r in scored if not r.method.startswith(BASELINE)]
    panels: dict[str, list[tuple[str, str]]] = {}
    for record in sorted(methods, key=lambda r: (r.dataset, r.split != "val", r.split)):
        panels.setdefault(record.protocol, [])
        if record.place[:2] not in panels[record.protocol]:
            panels[record.protocol].append((record.dataset, record.split))
    if sum(map(len, panels.values())) < 2:
        return None
    known = looks(r.label for r in methods)
    with matplotlib.rc_context(STYLE):
        lines = [len(places) for places in panels.values()]
        figure = Figure(figsize=(WIDTH, 0.7 + sum(LINE * count + 0.2 for count in lines)))
        axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=lines)[:, 0]
        for axis, (protocol, places) in zip(axes, panels.items(), strict=True):
            _splits_panel(axis, [r for r in scored if r.protocol == protocol], places, known)
            axis.set_title(PROTOCOLS.get(protocol, protocol) if len(panels) > 1 else "")
        axes[-1].set(xlabel=title, xlim=(0, 100))
        shared_legend(figure, axes, 3)
    return figure


def _splits_panel(
    axis: Axes, scored: Sequence[Record], places: Sequence[tuple[str, str]], known: Mapping[str, Look]
) -> None:
    for line, place in enumerate(places):
        here = {r.label: r for r in scored if r.place[:2] == place}
        trivial = max((r.value for r in here.values() if r.method.startswith(BASELINE)), default=None)
        if trivial is not None:
            axis.plot([100 * trivial] * 2, [line - 0.36, line + 0.36], color=GREY, linewidth=1.5,
                      label="best baseline")  # fmt: skip
        shown = [label for label in known if label in here]
        for rank, label in enumerate(shown):
            record, look = here[label], known[label]
            axis.errorbar(100 * record.value, line + 0.26 * (rank - (len(shown) - 1) / 2), xerr=reach(record),
                          color=look.colour, marker=look.marker, capsize=2, linestyle="none",
                          label=method_name(label))  # fmt: skip
    axis.set(yticks=range(len(places)), yticklabels=[place_name(*place) for place in places],
             ylim=(len(places) - 0.5, -0.5))  # fmt: skip
    axis.grid(axis="y", visible=False)


def object_sizes(records: Sequence[Record]) -> Figure | None:
    """gIoU by the size of objects with 95 % intervals, and dashed the reconstruction bound of the same sizes, on the
    first place that was scored by size, val before others; None without any."""
    scored = [r for r in scores_of(records) if r.metric.startswith("giou@") and not r.method.startswith(BASELINE)
              and not r.variant]  # fmt: skip
    place = min((r.place for r in scored), key=lambda place: (place[1] != "val", place), default=None)
    here: dict[str, dict[str, Record]] = {}
    for record in sorted(scored, key=lambda r: row_order(r.label)):
        if record.place == place:
            here.setdefault(record.method, {})[record.metric.removeprefix("giou@")] = record
    sizes = [size for size in SIZES if any(size in own for own in here.values())]
    if place is None or len(sizes) < 2:
        return None
    known, counts = looks(here), {size: max(own[size].n for own in here.values() if size in own) for size in sizes}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT))
        axis = figure.subplots()
        ends = [
            end
            for rank, (name, own) in enumerate(here.items())
            for end in _sizes(axis, name, own, sizes, records, known[name], DODGE * (rank - (len(here) - 1) / 2))
        ]
        axis.set_xticks(range(len(sizes)), [f"{AREAS[size]}\n(n = {counts[size]})" for size in sizes])
        axis.set(ylim=(0, 100), xlim=(-0.2, len(sizes) - 0.8), ylabel="gIoU (%)", title=place_name(*place[:2]))
        name_ends(axis, ends, INNER * HEIGHT)
    return figure


def _sizes(
    axis: Axes,
    name: str,
    own: Mapping[str, Record],
    sizes: Sequence[str],
    records: Sequence[Record],
    look: Look,
    shift: float,
) -> list[End]:
    found = [own[size] for size in sizes if size in own]
    places = [place + shift for place, size in enumerate(sizes) if size in own]
    values = [100 * record.value for record in found]
    bars = [[bar[side][0] for bar in map(reach, found)] for side in (0, 1)]
    axis.errorbar(places, values, yerr=bars, color=look.colour, marker=look.marker, capsize=2)
    ends = [End(values[-1], places[-1], method_name(name), look.colour)]
    bound, _ = bounds_of(name, found[0], records)
    limits = [(place, 100 * bound[f"giou@{size}"]) for place, size in enumerate(sizes) if f"giou@{size}" in bound]
    if limits:
        axis.plot(*zip(*limits, strict=True), color=look.colour, linestyle="--", linewidth=1)
        ends.append(End(limits[-1][1], limits[-1][0], "reconstruction", look.colour))
    return ends
