"""Training curves, one panel for each question: how good the mask tokenizer is, what the language model has learned,
how good the answers are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from bench.report.figures.style import STYLE, WIDTH, End, log_ticks, looks, name_ends
from bench.report.training_logs import Training, rows_of, samples_of

HEIGHT = 2.3
INNER = 0.68  # of the height that the axes have
POINTS = 20  # means of a stage's loss, at most
APART = 5.0  # times the samples of another curve, from which the axis is logarithmic
LANGUAGE = ("text", "visual")  # losses of what the language model writes: cross-entropies of its tokens
Point = tuple[float, float]  # samples seen, value


def training_curves(found: Sequence[Training]) -> Figure | None:
    """A panel for each question that the logs answer; stages that went on from each other are one curve over all
    samples seen. None without logs."""
    panels = [
        (title, unit, curves)
        for title, unit, draw, chosen in (
            ("Mask tokenizer", "validation gIoU (%)", _scores("giou"), [t for t in found if t.mask_tokenizer]),
            ("Language model", "training loss", _losses, [t for t in found if not t.mask_tokenizer]),
            ("Answers", "validation cIoU (%)", _scores("ciou"), [t for t in found if not t.mask_tokenizer]),
        )
        if (curves := {training.name: points for training in chosen if (points := _points(training, draw))})
    ]
    if not panels:
        return None
    methods = {training.name: training.method for training in found}
    known = looks(methods.values())
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * max(1.0, 0.68 * len(panels)), HEIGHT))
        for axis, (title, unit, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for name, points in curves.items():
                look = known[methods[name]]
                marks = {"marker": look.marker, "markersize": 2.5} if "validation" in unit else {"linewidth": 1}
                axis.plot(*zip(*points, strict=True), color=look.colour, **marks)
            _finish(axis, title, unit, [points[-1][0] for points in curves.values()])
            ends = [End(points[-1][1], points[-1][0], name, known[methods[name]].colour)
                    for name, points in curves.items()]  # fmt: skip
            name_ends(axis, ends, INNER * HEIGHT)
    return figure


def _finish(axis: Axes, title: str, unit: str, lengths: Sequence[float]) -> None:
    axis.set(title=title, ylabel=unit, xlabel="samples seen")
    if max(lengths) > APART * min(lengths):
        axis.set_xscale("log")
        log_ticks(axis.xaxis, *axis.get_xlim(), steps=(1,))
    else:
        axis.set_xlim(left=0)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}"))
    if unit.startswith("validation"):
        axis.set_ylim(0, 100)
    else:
        axis.set_yscale("log")
        axis.set_ylim(*axis.get_ylim())
        log_ticks(axis.yaxis, *axis.get_ylim())


Draw = Callable[[Sequence[dict[str, Any]], Sequence[dict[str, Any]]], list[Point]]


def _points(training: Training, draw: Draw) -> list[Point]:
    """The curve of a training over the samples of all of its stages."""
    points, seen = list[Point](), 0
    for folder in training.folders:
        log = rows_of(folder, "train.jsonl")
        points += [(seen + samples, value) for samples, value in draw(log, rows_of(folder, "validation.jsonl"))]
        seen += samples_of(folder)
    return points


def _scores(metric: str) -> Draw:
    """The values of a metric of the validation, in percent."""

    def draw(_: Sequence[dict[str, Any]], validation: Sequence[dict[str, Any]]) -> list[Point]:
        return [(row["samples"], 100 * row[metric]) for row in validation if {metric, "samples"} <= row.keys()]

    return draw


def _losses(log: Sequence[dict[str, Any]], _: Sequence[dict[str, Any]]) -> list[Point]:
    """The loss of the language model: means over equal parts of the log."""
    known = [(row["samples"], sum(row[name] for name in LANGUAGE if name in row)) for row in log
             if "samples" in row and any(name in row for name in LANGUAGE)]  # fmt: skip
    parts = np.array_split(np.array(known, float), min(len(known), POINTS)) if known else []
    return [(float(part[-1, 0]), float(part[:, 1].mean())) for part in parts]
