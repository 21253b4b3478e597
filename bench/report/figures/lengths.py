"""Figures over the number of mask tokens: reconstructions, answers cut short, and other mask tokenizers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.records import RECONSTRUCTION, Record, Settings, canonical
from bench.report.figures.style import COLOURS, GREY, MARKERS, STYLE, WIDTH, End, Look, looks, name_ends
from bench.report.names import method_name, place_name
from bench.report.tables import ablated

HEIGHT = 2.4  # inches of a panel
INNER = 0.72  # of it that its axes have
ACROSS = 2  # panels beside each other
HIERARCHY = "hierarchy"  # the setting of a variant that names the form of the hierarchical mask loss
BOUND = "reconstruction gIoU (%)"
Curve = Mapping[int, Record]  # mask tokens -> record


def reconstruction_bound(records: Sequence[Record]) -> Figure | None:
    """gIoU of the ground truth after encoding and decoding over the number of tokens, a panel per dataset and split;
    None without such records. Where each mask tokenizer was measured at one length alone, there is no panel.

    Solid with its 95 % band: all objects. Dotted: small ones, below 32 x 32 pixels.
    """
    curves = {key: curve for key, curve in _reconstructions(records, "giou").items() if not key[3]}
    small = _reconstructions(records, "giou@small")
    drawn = {key[:2] for key, curve in curves.items() if len(curve) > 1}
    if not drawn:
        return None
    places = sorted(drawn, key=lambda place: (place[0], place[1] != "val", place[1]))
    known = looks(key[2] for key in curves)
    with matplotlib.rc_context(STYLE):
        figure, axes = _panels(len(places))
        for axis, place in zip(axes, places, strict=True):
            here = {key: curves[key] for key in sorted(curves) if key[:2] == place}
            ends = [draw_curve(axis, curve, key[2], known[key[2]]) for key, curve in here.items()]
            ends += [_draw_small(axis, small[key], key[2], known[key[2]]) for key in here if key in small]
            count = max((record.n for key in here for record in small.get(key, {}).values()), default=0)
            told = f" (small: below 32² px, n = {count})" if count else ""
            finish_lengths(axis, here.values(), place_name(*place) + told, BOUND, ends)
    return figure


def ablation_lengths(records: Sequence[Record]) -> Figure | None:
    """What fewer mask tokens cost: cIoU of the answers with only the first tokens, with its 95 % band. None if that was
    not measured."""
    answers: dict[str, dict[int, Record]] = {}
    for record in ablated(records):
        if record.tokens and not record.variant and record.metric == "ciou":
            answers.setdefault(record.method, {})[record.tokens] = record
    if not answers:
        return None
    known = looks(answers)
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = _panels(1)
        ends = [draw_curve(axis, curve, name, known[name]) for name, curve in sorted(answers.items())]
        finish_lengths(axis, answers.values(), "Answers cut after the first tokens", "cIoU (%)", ends)
    return figure


def mask_tokenizers(records: Sequence[Record]) -> Figure | None:
    """Reconstructions on val of the mask tokenizers that were trained in another way, a panel for each method and thing
    that was changed; in grey the method's mask tokenizer as it is. None without any. The hierarchical mask
    loss has a figure of its own (hierarchy.py)."""
    curves = {key: curve for key, curve in _reconstructions(records, "giou").items() if key[1] == "val"}
    plain = {key[2]: curve for key, curve in curves.items() if not key[3]}
    groups: dict[tuple[str, str], dict[str, Curve]] = {}
    for (_, _, method, variant), curve in sorted(curves.items()):
        if variant and HIERARCHY not in variant_of(curve):
            *rest, (changed, value) = variant_of(curve).items()
            name = ", ".join([str(value), *(f"{key} {told}".replace("_", " ") for key, told in rest)])
            groups.setdefault((method, changed), {})[name] = curve
    if not groups:
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = _panels(len(groups))
        for axis, ((method, changed), own) in zip(axes, groups.items(), strict=True):
            ends = []
            if method in plain:
                ends.append(draw_curve(axis, plain[method], "as evaluated", Look(GREY, ".")))
            ends += [draw_curve(axis, curve, name, Look(COLOURS[i], MARKERS[i]))
                     for i, (name, curve) in enumerate(own.items())]  # fmt: skip
            title = f"{method_name(method)}: {changed.replace('_', ' ')}"
            finish_lengths(axis, [*own.values(), plain.get(method, {})], title, BOUND, ends)
    return figure


def variant_of(curve: Curve) -> Settings:
    """The settings that the records of a curve share."""
    return next(iter(curve.values())).variant


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, two beside each other."""
    across = min(count, ACROSS)
    down = -(-count // across)
    figure = Figure(figsize=(WIDTH * across, HEIGHT * down))
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]


def _reconstructions(records: Sequence[Record], metric: str) -> dict[tuple[str, str, str, str], dict[int, Record]]:
    """(dataset, split, method, variant without its tokens) -> tokens -> record."""
    curves: dict[tuple[str, str, str, str], dict[int, Record]] = {}
    for record in records:
        if record.kind == RECONSTRUCTION and record.tokens and record.metric == metric:
            key = (record.dataset, record.split, record.method, canonical(record.variant))
            curves.setdefault(key, {})[record.tokens] = record
    return curves


def draw_curve(axis: Axes, curve: Curve, name: str, look: Look) -> End:
    """A curve over tokens with its 95 % band -> its end."""
    tokens = sorted(curve)
    values = [100 * curve[count].value for count in tokens]
    axis.plot(tokens, values, color=look.colour, marker=look.marker)
    low, high = ([100 * _bound(curve[count], side) for count in tokens] for side in ("low", "high"))
    axis.fill_between(tokens, low, high, color=look.colour, alpha=0.2, linewidth=0)
    return End(values[-1], tokens[-1], method_name(name), look.colour)


def _bound(record: Record, side: str) -> float:
    bound = getattr(record, side)
    return record.value if bound is None else bound


def _draw_small(axis: Axes, curve: Curve, name: str, look: Look) -> End:
    tokens = sorted(curve)
    values = [100 * curve[count].value for count in tokens]
    axis.plot(tokens, values, color=look.colour, linestyle=":")
    return End(values[-1], tokens[-1], f"{method_name(name)}, small", look.colour)


def finish_lengths(
    axis: Axes, curves: Iterable[Mapping[int, object]], title: str, unit: str, ends: Sequence[End]
) -> None:
    _token_axis(axis, sorted({tokens for curve in curves for tokens in curve}))
    axis.set(xlabel="mask tokens", ylabel=unit, ylim=(0, 100), title=title)
    name_ends(axis, ends, INNER * HEIGHT)


def _token_axis(axis: Axes, tokens: Sequence[int]) -> None:
    """A logarithmic axis with a tick at each number of tokens that leaves room for its print."""
    kept = [tokens[-1]]
    for count in reversed(tokens):
        if kept[-1] / count >= max(1.35, (tokens[-1] / tokens[0]) ** 0.1):
            kept.append(count)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(kept[::-1]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
