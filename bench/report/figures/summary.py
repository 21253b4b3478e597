"""The chart beside the answer: accuracy over latency, and the papers' own figures apart, which have no latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.records import BASELINE, Record
from bench.report.figures.style import STYLE, look_of, reach
from bench.report.layout import Timing
from bench.report.names import method_name, place_name
from bench.report.published import best_graded
from bench.report.tables import scores_of, whole_time
from methods.registry import METHODS, method_spec

METRIC = "ciou"
APART = 5.5  # points between two names
PAPERS = ("RefCOCO", "val")  # the papers' figures that stand beside ours


def summary_chart(records: Sequence[Record], printed: pd.DataFrame) -> Figure | None:
    """A point per timed method on the first place that was scored, val before other splits: cIoU with its 95 % interval
    over the median latency, whose bar reaches to the 90th percentile. The line joins the methods that no other beats in
    both. None if nothing was timed."""
    scored = [r for r in scores_of(records) if r.metric == METRIC and not r.variant]
    timed = {r.place: {r.method: (r, time) for r in scored if r.place == place and (time := whole_time(records, r))}
             for place in {r.place for r in scored} for r in scored if r.place == place}  # fmt: skip
    places = sorted((place for place, own in timed.items() if own), key=lambda place: (place[1] != "val", place))
    if not places:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 3.3))
        papers = _papers(printed)
        if papers:
            left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2.2, 1))
            _papers_panel(right, papers)
        else:
            left = figure.subplots()
        _panel(left, timed[places[0]], [r for r in scored if r.place == places[0]])
        left.set_title(place_name(*places[0][:2]), fontsize=9, loc="left")
    return figure


def _panel(axis: Axes, timed: Mapping[str, tuple[Record, Timing]], scored: Sequence[Record]) -> None:
    _frontier(axis, [(time.median, 100 * record.value) for record, time in timed.values()])
    for name in sorted(timed):
        look = look_of(name)
        record, time = timed[name]
        axis.errorbar(time.median, 100 * record.value, xerr=[[0], [max(0.0, (time.p90 or time.median) - time.median)]],
                      yerr=reach(record), color=look.colour,
                      marker=look.marker, capsize=2, linestyle="none")  # fmt: skip
        axis.annotate(method_name(name), (time.median, 100 * record.value), (7, -13), textcoords="offset points",
                      color=look.colour, fontweight="bold", fontsize=8)  # fmt: skip
    trivial = max((r for r in scored if r.method.startswith(BASELINE)), key=lambda r: r.value, default=None)
    medians = [time.median for _, time in timed.values()]
    axis.set(xscale="log", xlim=(min(medians) / 1.7, max(medians) * 2.4), ylim=(0, 100), ylabel="cIoU (%)",
             xlabel="latency (ms, log scale)")  # fmt: skip
    if trivial:
        axis.axhline(100 * trivial.value, color="#666666", linestyle="--", linewidth=1)
        axis.annotate(method_name(trivial.method), (axis.get_xlim()[0], 100 * trivial.value), (3, 3),
                      textcoords="offset points", color="#444444", fontsize=7)  # fmt: skip
    ticks = [step * 10.0**decade for decade in range(-1, 6) for step in (1, 2, 5)]
    axis.xaxis.set_major_locator(
        FixedLocator([tick for tick in ticks if axis.get_xlim()[0] < tick < axis.get_xlim()[1]])
    )
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _frontier(axis: Axes, points: Sequence[tuple[float, float]]) -> None:
    """The line through the points that no other beats in both, fastest first."""
    best: list[tuple[float, float]] = []
    for point in sorted(points):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    if len(best) > 1:
        axis.plot(*zip(*best, strict=True), color="#999999", linewidth=1, zorder=0)


def _papers(printed: pd.DataFrame) -> dict[str, tuple[str, float]]:
    """Name -> (method, cIoU in the papers) of the published models of our methods, on their first benchmark."""
    if not len(printed):
        return {}
    here = printed[(printed["dataset"] == PAPERS[0]) & (printed["split"] == PAPERS[1]) & (printed["metric"] == METRIC)]
    found = {}
    for row in best_graded(here[here["value"].notna()]).itertuples():
        for method in METHODS:
            if str(row.method).removesuffix(" (ft)").removesuffix("-8B") == method_spec(method).title:
                found[str(row.method)] = method, float(row.value)
    return found


def _papers_panel(axis: Axes, papers: Mapping[str, tuple[str, float]]) -> None:
    """Hollow points; the names stand below each other beside them."""
    place = 100.0
    for name, (method, value) in sorted(papers.items(), key=lambda item: -item[1][1]):
        look = look_of(method)
        place = min(place - APART, 100 * value + APART)
        axis.plot(0.12, 100 * value, marker=look.marker, markerfacecolor="none", color=look.colour)
        axis.annotate(name, (0.12, 100 * value), (0.3, place), textcoords="data", fontsize=7, color=look.colour,
                      va="center", arrowprops={"arrowstyle": "-", "color": "#aaaaaa", "linewidth": 0.6})  # fmt: skip
    axis.set(xlim=(0, 1.5), xticks=[], xlabel="as published,\nnot comparable")
    axis.set_title(" ".join(PAPERS), fontsize=9, loc="left")
    axis.grid(axis="x", visible=False)
    axis.set_facecolor("#f6f8fa")
