"""Figures of bars, a line for each method: where the time goes, beside its floor, and where the points are lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.patches
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.records import Record
from bench.report.budget import PARTS, budgets
from bench.report.figures.style import COLOURS, STYLE, WIDTH
from bench.report.figures.timed import first_setting, stages_of
from bench.report.layout import Table
from bench.report.names import method_name
from bench.report.speed import Metrics
from bench.report.tables import STAGES

LINE = 0.5  # inches for a bar
NAMED = 0.12  # share of the longest bar from which a part has room for its figure
DARK = ("#0072B2", "#D55E00", "#009E73", "#000000")  # on which white is read


def latency_stages(records: Sequence[Record]) -> Figure | None:
    """The median of each stage, end to end, with the floor of all stages as a mark: of the first device and dataset on
    which stages were timed, the methods as they are. None without any."""
    shown = first_setting(records, ("median_ms",))
    return _stages_figure(shown) if shown else None


def _stages_figure(shown: Mapping[str, Metrics]) -> Figure:
    with matplotlib.rc_context(STYLE):
        figure, axis = _drawn({name: stages_of(mine) for name, mine in shown.items()}, STAGES)
        for place, mine in enumerate(shown.values()):
            floor = sum(value for stage, value in stages_of(mine, "floor_ms").items() if stage in stages_of(mine))
            if floor:
                axis.plot([floor, floor], [place - 0.36, place - 0.2], color="black", linewidth=1.6)
                axis.annotate(
                    f"floor {floor:.0f}", (floor, place - 0.36), (2, 1), textcoords="offset points", fontsize=7
                )
        axis.set_xlabel("ms per request (medians)")
    return figure


def budget_parts(records: Sequence[Record]) -> Figure | None:
    """The points of gIoU that are lost between the true mask and the answers, end to end; None without an error budget.
    What a chance overlap wins back is left out."""
    tables = sorted(budgets(records), key=lambda table: "val" not in table.title)
    if not tables:
        return None
    with matplotlib.rc_context(STYLE):
        figure, axis = _drawn(_lost(tables[0]), list(PARTS.values())[:-1])
        axis.set_xlabel("points of gIoU lost")
    return figure


def _lost(table: Table) -> dict[str, dict[str, float]]:
    """Method (of the first place that the table has) -> part -> points."""
    found: dict[str, dict[str, float]] = {}
    for row in table.rows:
        parts = {title: 100 * row[key].value for key, title in list(PARTS.items())[:-1] if row.get(key) is not None}
        found.setdefault(method_name(row["method"]), parts)
    return found


def _drawn(lines: dict[str, dict[str, float]], parts: Sequence[str]) -> tuple[Figure, Axes]:
    """Bars of parts end to end with their figures, the sum behind; the parts are named above."""
    figure = Figure(figsize=(WIDTH, 0.75 + LINE * len(lines) + 0.2))
    axis = figure.subplots()
    colours = {part: COLOURS[i % len(COLOURS)] for i, part in enumerate(parts)}
    longest = max(sum(each.values()) for each in lines.values())
    for place, line in enumerate(lines.values()):
        start = 0.0
        for part, value in line.items():
            axis.barh(place, value, 0.5, start, color=colours[part], alpha=0.85, edgecolor="white", linewidth=0.5)
            if value >= NAMED * longest:
                axis.annotate(f"{value:.1f}", (start + value / 2, place), ha="center", va="center", fontsize=7,
                              color="white" if colours[part] in DARK else "black")  # fmt: skip
            start += value
        axis.annotate(f"{start:.1f}", (start, place), (3, 0), textcoords="offset points", va="center", fontsize=7)
    axis.set(yticks=range(len(lines)), yticklabels=list(lines), ylim=(len(lines) - 0.4, -0.6), xlim=(0, longest * 1.14))
    axis.grid(axis="y", visible=False)
    used = [part for part in parts if any(line.get(part, 0) >= 0.01 * longest for line in lines.values())]
    across = min(3, len(used))
    used = [part for column in range(across) for part in used[column::across]]  # a legend fills its columns first
    handles = [matplotlib.patches.Patch(color=colours[part], alpha=0.85) for part in used]
    titles = [part.replace("_", " ") for part in used]
    figure.legend(handles, titles, loc="outside upper center", ncols=across, handlelength=1, columnspacing=1)
    return figure, axis
