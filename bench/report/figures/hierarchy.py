"""The ablation of a loss over the hierarchy of mask tokens: what it does to answers, and to the tokens' order."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.records import RECONSTRUCTION, SCORE, Record
from bench.report.figures.lengths import BOUND, HIERARCHY, Curve, draw_curve, finish_lengths
from bench.report.figures.style import COLOURS, MARKERS, STYLE, WIDTH, Look, reach
from bench.report.names import method_name

HEIGHT = 2.4


def hierarchy_ablation(records: Sequence[Record]) -> Figure | None:
    """Left: cIoU of the answers of each form of the loss with its 95 % interval, a point for each seed. Right:
    reconstruction from the first tokens, of the first seed. None unless several forms were measured."""
    mine = [r for r in records if HIERARCHY in r.variant]
    answers = [r for r in mine if r.kind == SCORE and r.metric == "ciou" and not r.tokens]
    curves: dict[str, dict[int, Record]] = {}
    for record in mine:
        first = set(record.variant) == {HIERARCHY}  # the others name their seed
        if record.kind == RECONSTRUCTION and record.metric == "giou" and first and record.tokens:
            curves.setdefault(str(record.variant[HIERARCHY]), {})[record.tokens] = record
    forms = sorted({str(r.variant[HIERARCHY]) for r in answers} | curves.keys(), key=lambda form: (form == "off", form))
    if len(forms) < 2:
        return None
    known = {form: Look(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, form in enumerate(forms)}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2 * WIDTH, HEIGHT))
        left, right = figure.subplots(1, 2)
        left.set_title(f"{method_name(mine[0].method)}: answers")
        left.set_ylabel("hierarchical mask loss")
        _answers(left, answers, known)
        _orders(right, curves, known)
    return figure


def _answers(axis: Axes, answers: Sequence[Record], known: dict[str, Look]) -> None:
    rows = {form: sorted((r for r in answers if str(r.variant[HIERARCHY]) == form), key=lambda r: len(r.variant))
            for form in known}  # fmt: skip
    for line, (form, found) in enumerate(rows.items()):
        for rank, record in enumerate(found):
            axis.errorbar(100 * record.value, line + 0.2 * (rank - (len(found) - 1) / 2),
                          xerr=reach(record), capsize=2,
                          color=known[form].colour, marker=known[form].marker, linestyle="none")  # fmt: skip
    axis.set(xlabel="cIoU (%)", yticks=range(len(rows)), yticklabels=list(rows), ylim=(len(rows) - 0.5, -0.5))
    axis.set_xlim(left=0)
    axis.grid(axis="y", visible=False)


def _orders(axis: Axes, curves: dict[str, Curve], known: dict[str, Look]) -> None:
    ends = [draw_curve(axis, curves[form], form, look) for form, look in known.items() if form in curves]
    if ends:
        finish_lengths(axis, curves.values(), "Reconstruction from the first tokens", BOUND, ends)
    else:
        axis.set_visible(False)
