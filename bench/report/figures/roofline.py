"""Each stage's latency beside the least that the machine's measured bandwidth and arithmetic allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.records import Record
from bench.report.figures.style import GREY, SMALL, STYLE, WIDTH, Look, log_ticks, looks, shared_legend
from bench.report.figures.timed import first_setting, stages_of
from bench.report.speed import Metrics, first_of
from bench.report.tables import STAGES

LINE = 0.22  # inches for a method's stage


def roofline(records: Sequence[Record]) -> Figure | None:
    """Hollow: the floor, from the bandwidth and arithmetic that were measured on the machine. Filled: the median, with
    the floor's share of it behind. None without floors."""
    shown = first_setting(records, ("median_ms", "floor_ms"))
    stages = [stage for stage in STAGES if any(stage in stages_of(mine, "floor_ms") for mine in shown.values())]
    if not shown or not stages:
        return None
    known = {name: look for name, look in zip(shown, looks(first_of(m).method for m in shown.values()).values(),
                                              strict=True)}  # fmt: skip
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.9 + LINE * len(stages) * len(shown)))
        axis = figure.subplots()
        ends = [end for line, stage in enumerate(stages) for end in _stage(axis, line, stage, shown, known)]
        axis.set_yticks(range(len(stages)), [stage.replace("_", " ") for stage in stages])
        axis.set(xscale="log", xlim=(min(ends) / 1.5, max(ends) * 3), ylim=(len(stages) - 0.5, -0.5))
        axis.set_xlabel("ms per request (log scale)")
        log_ticks(axis.xaxis, *axis.get_xlim())
        axis.grid(axis="y", visible=False)
        axis.plot([], [], "o", color=GREY, markerfacecolor="none", label="floor")
        shared_legend(figure, [axis], 3)
    return figure


def _stage(axis: Axes, line: int, stage: str, shown: Mapping[str, Metrics], known: Mapping[str, Look]) -> list[float]:
    """Draw one stage of each method -> all times in it."""
    times: list[float] = []
    for rank, (name, mine) in enumerate(shown.items()):
        floor, took = (stages_of(mine, metric).get(stage) for metric in ("floor_ms", "median_ms"))
        if not floor or not took:
            continue
        look, place = known[name], line + 0.8 * ((rank + 0.5) / len(shown) - 0.5)
        axis.plot([floor, took], [place, place], color=look.colour, linewidth=0.8)
        axis.plot(floor, place, look.marker, color=look.colour, markerfacecolor="white")
        axis.plot(took, place, look.marker, color=look.colour, label=name if not line else None)
        axis.annotate(f"{100 * floor / took:.0f} %", (max(floor, took), place), (5, 0), textcoords="offset points",
                      va="center", fontsize=SMALL - 1, color=look.colour)  # fmt: skip
        times += [floor, took]
    return times
