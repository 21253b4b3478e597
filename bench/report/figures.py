"""The figures: views of records and training logs, as PNG, SVG and PDF, the same bytes for the same input.

Colours are Okabe and Ito's, which people with any colour vision can tell apart; methods differ in marker too.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from PIL import Image

from bench.records import BASELINE, RECONSTRUCTION, Record, describe
from bench.report.names import method_name, place_name
from bench.report.tables import ablated, row_order, scores_of, whole_time
from methods.files import read_lines

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE = {
    "font.size": 9,
    "font.sans-serif": ["DejaVu Sans"],
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
FEW = 3  # curves whose names find room among them
STAGES_ACROSS = 6  # stages beside each other in the figure of the training


def files_of(figure: Figure, name: str) -> dict[str, bytes]:
    """name.png (256 colours, a third of the size), name.svg and name.pdf, without a date or a program's name. The
    figure's layout is fixed by that."""
    files = {}
    for kind, metadata in NAMELESS.items():
        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            figure.savefig(buffer, format=kind, dpi=110, metadata=metadata)
        figure.set_layout_engine("none")  # found once, because that takes half of the time of a drawing
        data = buffer.getvalue()
        if kind == "png":
            image = Image.open(buffer, formats=("PNG",)).convert("RGB").quantize(256)
            image.save(small := io.BytesIO(), "png", optimize=True)
            data = small.getvalue()
        elif kind == "svg":
            data = _compact(data)
        files[f"{name}.{kind}"] = data
    return files


def accuracy_over_latency(records: Sequence[Record], metric: str = "ciou", title: str = "cIoU") -> Figure | None:
    """A point per timed method, one panel per dataset, split and protocol; None if nothing was timed.

    Bars: 95 % interval upwards and downwards, 90th percentile to the right. Dashed: the best trivial baseline.
    """
    panels = {}
    for score in scores_of(records):
        if score.metric == metric and not score.variant:
            panels.setdefault((score.dataset, score.split, score.protocol), []).append(score)
    timed = {place: _timings(records, scores) for place, scores in panels.items()}
    panels = {place: scores for place, scores in panels.items() if timed[place]}
    if not panels:
        return None
    look = _look(name for times in timed.values() for name in times)
    with matplotlib.rc_context(STYLE):
        across = min(len(panels), 3)
        down = -(-len(panels) // across)
        figure = Figure(figsize=(4.8 * across, 3.6 * down))
        axes = figure.subplots(down, across, squeeze=False).flat
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        shown = sorted(panels.items(), key=lambda panel: (panel[0][0], panel[0][1] != "val", panel[0]))
        for axis, (place, scores) in zip(axes, shown, strict=False):
            _accuracy_panel(axis, scores, timed[place], look)
            axis.set(
                title=place_name(*place[:2]), xlabel="latency per image (ms, median to p90)", ylabel=f"{title} (%)"
            )
    return figure


def reconstruction_bound(records: Sequence[Record]) -> Figure | None:
    """gIoU of the ground truth after encoding and decoding over the number of tokens, a panel per dataset and split;
    None without such records. Where each mask tokenizer was measured at one length alone, there is no panel.

    Solid with its 95 % band: all objects. Dotted: objects below 32 x 32 pixels.
    """
    curves = {key: curve for key, curve in _reconstruction_curves(records).items() if not key[3]}
    drawn = {key[:2] for key, curve in curves.items() if len(curve) > 1}
    if not drawn:
        return None
    places = sorted(drawn, key=lambda place: (place[0], place[1] != "val", place[1]))
    look = _look(key[2] for key in curves)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2 * len(places), 4.0))
        axes = figure.subplots(1, len(places), squeeze=False)[0]
        for axis, place in zip(axes, places, strict=True):
            here = {key[2]: curves[key] for key in sorted(curves) if key[:2] == place}
            for name, curve in here.items():
                _reconstruction_curve(axis, curve, name, *look[name])
            _length_panel(
                axis, here.values(), f"Reconstruction bound, {place_name(*place)}", "gIoU of the round trip (%)"
            )
        shared_legend(figure, axes, 2)
    return figure


def ablation_lengths(records: Sequence[Record]) -> Figure | None:
    """What fewer mask tokens cost: cIoU of the answers with only the first tokens (left), and the round trip of the
    mask tokenizers that were trained in another way (right). Bands: 95 %. None if neither was measured."""
    answers: dict[str, dict[int, dict[str, Record]]] = {}
    for record in ablated(records):
        if record.tokens and not record.variant and record.metric == "ciou":
            answers.setdefault(record.method, {}).setdefault(record.tokens, {})["ciou"] = record
    bounds = _reconstruction_curves(records)
    changed = {key[2] for key in bounds if key[3]}
    # beside each changed mask tokenizer stands the bundled one of its method, at the same questions or more of them
    shown = {key: curve for key, curve in bounds.items() if key[2] in changed and key[1] == "val"}
    round_trips = {" ".join(filter(None, (key[2], key[3] and f"({key[3]})"))): shown[key] for key in sorted(shown)}
    panels = [
        (curves, title, unit, metric)
        for curves, title, unit, metric in (
            (answers, "Answers with the first tokens only", "cIoU (%)", "ciou"),
            (round_trips, "Mask tokenizers trained in another way", "gIoU of the round trip (%)", "giou"),
        )
        if curves
    ]
    if not panels:
        return None
    with matplotlib.rc_context(STYLE):
        crowded = any(len(curves) > FEW for curves, *_ in panels)
        figure = Figure(figsize=(5.2 * len(panels) + 2.6 * crowded, 3.6))
        for axis, (curves, title, unit, metric) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            look = _look(curves)
            for name, curve in curves.items():
                _band(axis, curve, metric, name, *look[name])
            _length_panel(axis, curves.values(), title, unit)
            crowd = {"fontsize": 7, "bbox_to_anchor": (1.0, 1.0)} if len(curves) > FEW else {"fontsize": 8}
            axis.legend(loc="upper left", **crowd)
    return figure


def training_curves(logs: Mapping[str, Path]) -> Figure | None:
    """Loss (above) and validation (below) over samples seen, a pair of panels per stage; None without logs.

    logs: stage -> folder with train.jsonl and perhaps validation.jsonl.
    """
    found = {name: _columns(folder / "train.jsonl") for name, folder in logs.items()}
    stages = {name: columns for name, columns in found.items() if columns}  # one that has just begun has none
    if not stages:
        return None
    with matplotlib.rc_context(STYLE):
        across = min(len(stages), STAGES_ACROSS)
        bands = -(-len(stages) // across)
        figure = Figure(figsize=(2.9 * across, 4.6 * bands))
        axes = figure.subplots(2 * bands, across, squeeze=False)
        pairs = [axes[2 * band : 2 * band + 2, column] for band in range(bands) for column in range(across)]
        for pair in pairs[len(stages) :]:
            for axis in pair:
                axis.set_visible(False)
        for (above, below), (name, columns) in zip(pairs, stages.items(), strict=False):
            below.sharex(above)
            above.tick_params(labelbottom=False)
            _loss_panel(above, columns)
            above.set_title(name)
            _validation_panel(below, _columns(logs[name] / "validation.jsonl"))
            below.set_xlabel("samples seen")
            below.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}"))
        for above, below in pairs[::across]:
            above.set_ylabel("training loss")
            below.set_ylabel("validation (%)")
        shared_legend(figure, [below for _, below in pairs], len(COLOURS))
    return figure


def shared_legend(figure: Figure, panels: Iterable[Axes], columns: int) -> None:
    """One legend above all panels, each name once, as it looks in the first panel that has it."""
    known: dict[str, Any] = {}
    for panel in panels:
        for handle, name in zip(*panel.get_legend_handles_labels(), strict=True):
            known.setdefault(name, handle)
    if known:
        columns = min(columns, len(known))
        figure.legend(known.values(), known.keys(), loc="outside upper center", ncols=columns, fontsize=8)


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


def _timings(records: Sequence[Record], scores: Iterable[Record]) -> dict[str, tuple[float, float]]:
    """Label -> median and p90 of the whole request in ms, of the scored methods that were timed."""
    times = {score.label: whole_time(records, score) for score in scores}
    return {name: (time.median, time.p90 or time.median) for name, time in times.items() if time}


def _look(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Name -> (colour, marker), by rank in alphabetical order; no pair comes twice among the first 49."""
    ordered = sorted(set(names), key=row_order)
    count = len(COLOURS)
    return {name: (COLOURS[i % count], MARKERS[(i + i // count) % len(MARKERS)]) for i, name in enumerate(ordered)}


def _accuracy_panel(
    axis: Axes, scores: Sequence[Record], timed: Mapping[str, tuple[float, float]], look: Mapping[str, tuple[str, str]]
) -> None:
    for score in sorted(scores, key=lambda record: row_order(record.label)):
        if score.label not in timed:
            continue
        (median, p90), (colour, marker) = timed[score.label], look[score.label]
        low, high = (score.value if bound is None else bound for bound in (score.low, score.high))
        axis.errorbar(
            median,
            100 * score.value,
            xerr=[[0], [max(0.0, p90 - median)]],
            yerr=[[100 * (score.value - low)], [100 * (high - score.value)]],
            color=colour,
            marker=marker,
            capsize=3,
            linestyle="none",
            label=method_name(score.label),
        )
    trivial = [score for score in scores if score.method.startswith(BASELINE)]
    if trivial:
        best = max(trivial, key=lambda record: record.value)
        axis.axhline(100 * best.value, color="#666666", linestyle="--", linewidth=1,
                     label=method_name(best.method))  # fmt: skip
    axis.set_xscale("log")
    medians = [timed[score.label] for score in scores if score.label in timed]
    axis.set_xlim(min(m for m, _ in medians) / 2, max(p for _, p in medians) * 2)
    _plain_log_ticks(axis.xaxis, *axis.get_xlim())
    axis.set_ylim(0, min(100, 1.25 * max(100 * (score.high or score.value) for score in scores)))
    handles, names = axis.get_legend_handles_labels()
    order = sorted(range(len(names)), key=lambda i: ("(baseline)" in names[i], names[i]))
    axis.legend([handles[i] for i in order], [names[i] for i in order], loc="best")


def _plain_log_ticks(axis: Axis, low: float, high: float) -> None:
    """Ticks at 1, 2 and 5 times the powers of ten (powers alone if those are many), printed as plain numbers."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(decades) <= 4 else (1,)
    axis.set_major_locator(FixedLocator([step * 10.0**decade for decade in decades for step in steps]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _reconstruction_curves(records: Sequence[Record]) -> dict[tuple[str, str, str, str], dict[int, dict[str, Record]]]:
    """(dataset, split, method, variant without its tokens) -> tokens -> metric -> record."""
    curves: dict[tuple[str, str, str, str], dict[int, dict[str, Record]]] = {}
    for record in records:
        if record.kind == RECONSTRUCTION and record.tokens:
            key = (record.dataset, record.split, record.method, describe(record.variant))
            curves.setdefault(key, {}).setdefault(record.tokens, {})[record.metric] = record
    return curves


def _reconstruction_curve(
    axis: Axes, curve: Mapping[int, Mapping[str, Record]], name: str, colour: str, marker: str
) -> None:
    tokens = _band(axis, curve, "giou", name, colour, marker)
    tiny = [(count, curve[count]["giou@small"]) for count in tokens if "giou@small" in curve[count]]
    if tiny:
        axis.plot(*zip(*((c, 100 * r.value) for c, r in tiny), strict=True), color=colour, linestyle=":",
                  label=f"{method_name(name)}, below 32 x 32 px (n = {tiny[-1][1].n})")  # fmt: skip


def _band(
    axis: Axes, curve: Mapping[int, Mapping[str, Record]], metric: str, name: str, colour: str, marker: str
) -> list[int]:
    """A curve over tokens with its 95 % band -> the numbers of tokens."""
    tokens = [count for count in sorted(curve) if metric in curve[count]]
    found = [curve[count][metric] for count in tokens]
    axis.plot(tokens, [100 * r.value for r in found], color=colour, marker=marker, markersize=5,
              label=method_name(name))  # fmt: skip
    bounds = [
        [100 * (r.value if b is None else b) for r, b in ((r, getattr(r, side)) for r in found)]
        for side in ("low", "high")
    ]
    axis.fill_between(tokens, *bounds, color=colour, alpha=0.2, linewidth=0)
    return tokens


def _length_panel(axis: Axes, curves: Iterable[Mapping[int, object]], title: str, unit: str) -> None:
    _token_axis(axis, sorted({tokens for curve in curves for tokens in curve}))
    axis.set(xlabel="mask tokens", ylabel=unit, ylim=(0, 100), title=title)


def _token_axis(axis: Axes, tokens: Sequence[int]) -> None:
    """A logarithmic axis with a tick at each number of tokens that leaves room for its print."""
    kept = [tokens[-1]]
    for count in reversed(tokens):
        if kept[-1] / count >= 1.35:
            kept.append(count)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(kept[::-1]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def _columns(path: Path) -> dict[str, np.ndarray]:
    """The numeric columns of a log; rows without a value have NaN."""
    rows: list[dict[str, Any]] = [row for _, row in read_lines(path)] if path.is_file() else []
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name, np.nan) for row in rows], float) for name in names}


def _loss_panel(axis: Axes, columns: Mapping[str, np.ndarray]) -> None:
    """The total and, if there are several, its parts; each point is the mean of about 2 % of the log."""
    hidden = {"step", "samples", "lr"}
    parts = [name for name in columns if name not in hidden and not name.startswith("_")]
    parts = [name for name in parts if name == "loss" or len(parts) > 2]
    samples = columns.get("samples", columns.get("step"))
    bins = np.array_split(np.arange(len(samples)), min(len(samples), 50))
    ends = [samples[each[-1]] for each in bins]
    for name, colour in zip(parts, COLOURS, strict=False):
        held = [columns[name][each] for each in bins]
        means = [each[~np.isnan(each)].mean() if not np.isnan(each).all() else np.nan for each in held]
        axis.plot(ends, means, color=colour, linewidth=1.6 if name == "loss" else 0.9, label=name)
    low, high = axis.get_ylim()
    if len(parts) > 1 or high > 4 * low > 0:  # a loss that hardly moves is easier to read between plain ticks
        axis.set_yscale("log")
        _plain_log_ticks(axis.yaxis, *axis.get_ylim())
    axis.legend(fontsize=7)


def _validation_panel(axis: Axes, columns: Mapping[str, np.ndarray]) -> None:
    hidden = {"step", "samples", "failures"}
    names = [name for name in columns if name not in hidden]
    for name, colour, marker in zip(names, COLOURS, MARKERS, strict=False):
        axis.plot(columns["samples"], 100 * columns[name], color=colour, marker=marker, markersize=3, label=name)
    axis.set_ylim(0, 100)
