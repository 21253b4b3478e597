"""Two runs on one page: paired differences, how often each is better, and the samples that changed most.

`genseg compare A B --page FILE`. The page needs no script and nothing beside it, so it can be sent.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure as Drawing
from PIL import Image

from bench.data import rle
from bench.data.dataset import Dataset
from bench.evaluate.commands import COUNTS, FOUND, Compared, Place, open_truth
from bench.evaluate.metrics.registry import NOWHERE, REGISTRY
from bench.evaluate.scoring import key_of
from bench.evaluate.statistics import Difference, holm
from bench.report import page
from bench.report.figures.style import COLOURS, STYLE, files_of
from bench.report.layout import Column, Figure, Table, html, one_line
from bench.report.names import method_name, place_name
from bench.report.qualitative_grid import ANSWER, TRUTH, overlay
from methods.base import UserError
from methods.files import write_atomic, writing
from methods.images import open_image

CHANGED = 12  # samples that are shown on each side
CLEAR = 0.1  # of IoU, from which a sample counts as changed
RIGHT = 0.5  # IoU of an answer that found its object
SIDE = 200  # pixels of an image's longer side
MARK = '<meta name="generator" content="genseg compare">'  # by which a page of ours is known
COLUMNS = (
    Column("metric", "metric"), Column("first", "A", "percent"), Column("second", "B", "percent"),
    Column("gap", "A minus B", "percent"), Column("p", "p"), Column("family", "p (Holm)"),
)  # fmt: skip
NOTE = (
    "Percent. The difference is paired by sample, ± half of its 95 % interval of a bootstrap over images; bold where "
    "the interval excludes 0. Holm's correction bounds the chance of any false alarm among all metrics of the table."
)


class Pair(NamedTuple):
    """Two files over the same questions. names: what A and B are called; dataset: with its images, if at hand."""

    names: tuple[str, str]
    compared: Compared
    dataset: Dataset | None = None


@dataclass(frozen=True)
class Sample:
    """A question with both answers' IoU. images: image, truth, A and B as data URIs, none without images."""

    expression: str
    reference: str
    ious: tuple[float, float]
    failures: tuple[str, str]
    images: Sequence[tuple[str, str]] = ()

    @property
    def gap(self) -> float:
        return self.ious[0] - self.ious[1]


def check_target(path: Path) -> None:
    """Raise UserError if something is in the page's place that is no such page."""
    with writing(path):
        there = path.is_dir() or (path.exists() and MARK not in path.read_text("utf-8", errors="replace")[:2000])
    if there:
        raise UserError(f"{path}: holds something else and would be replaced; give --page another name.")


def write_comparison(path: Path, pairs: Sequence[Pair]) -> Path:
    """Write the page of a comparison, a section for each pair of files."""
    check_target(path)
    write_atomic(path, comparison(pairs))
    return path


def comparison(pairs: Sequence[Pair]) -> str:
    """The page as text."""
    body = page.TEMPLATES.get_template("comparison.html").render(parts=[_part(pair) for pair in pairs])
    (first, second), *_ = (pair.names for pair in pairs)
    text = page.document(f"{one_line(first)} and {one_line(second)}", body, "A and B, compared sample by sample")
    return text.replace("<head>", f"<head>\n{MARK}", 1)


def _part(pair: Pair) -> dict[str, Any]:
    """What the template shows of a pair of files."""
    compared = pair.compared
    row = compared.first[0]
    samples = _samples(compared)
    changed = [sorted(samples, key=lambda each: sign * each.gap)[:CHANGED] for sign in (-1, 1)]
    lists = []
    for letter, side, sign in (("A", changed[0], 1), ("B", changed[1], -1)):
        kept = [each for each in side if sign * each.gap > 0]
        lists.append({"title": f"Where {letter} is better by most", "samples": _drawn(kept, pair)})
    place = place_name(*(str(row.get(name, "")) for name in ("dataset", "split", "protocol")))
    return {
        "place": place, "names": [one_line(name) for name in pair.names], "sentence": _sentence(compared),
        "chart": _chart(compared), "tables": Markup(html(_differences(compared), _counts(samples))), "lists": lists,
    }  # fmt: skip


def _sentence(compared: Compared) -> str:
    """The first metric in words."""
    name = next((name for name in ("ciou", "giou", *compared.found) if name in compared.found), "")
    gap, title = compared.found[name], _title(name)
    told = f"{title} of A is {100 * abs(gap.value):.1f} points {'above' if gap.value >= 0 else 'below'} that of B"
    bounds = f"{100 * gap.low:+.1f} to {100 * gap.high:+.1f}, {len(compared.first):,} samples"
    sure = "" if gap.low > 0 or gap.high < 0 else ", which is not sure"
    return f"{told}{sure} ({bounds})."


def _title(metric: str) -> str:
    return REGISTRY[metric].title if metric in REGISTRY else metric


def _shown(compared: Compared) -> dict[str, Difference]:
    """The metrics that tables show anywhere."""
    hidden = {name for name, metric in REGISTRY.items() if metric.where == NOWHERE}
    return {name: gap for name, gap in compared.found.items() if name not in {*COUNTS, *hidden}}


def _differences(compared: Compared) -> Table:
    adjusted = holm({name: gap.p for name, gap in _shown(compared).items() if gap.p == gap.p})
    rows, (mine, others) = [], compared.figures()
    for name, gap in _shown(compared).items():
        sure = gap.low > 0 or gap.high < 0
        bounds = (gap.low, gap.high) if gap.low == gap.low else (None, None)
        row = {"metric": _title(name), "first": Figure(mine[name]), "second": Figure(others[name])}
        row |= {"gap": Figure(gap.value, *bounds, best=sure)}
        rows.append(row | {"p": f"{gap.p:.4f}", "family": f"{adjusted.get(name, gap.p):.4f}"})
    return Table("Every metric", COLUMNS, rows, [NOTE])


def _samples(compared: Compared) -> list[Sample]:
    """Every question with both IoUs."""
    others = {key_of(row): row for row in compared.second}
    pairs = [(row, others[key_of(row)]) for row in compared.first if "iou" in row]
    return [
        Sample(one_line(str(a.get("expression") or "")), _reference(a), (a["iou"], b["iou"]),
               (one_line(str(a.get("failure") or "")), one_line(str(b.get("failure") or ""))))
        for a, b in pairs
    ]  # fmt: skip


def _reference(row: Mapping[str, Any]) -> str:
    """What a line answers, as people would look it up."""
    return one_line(f"{row['ref_id']}/{row.get('sent_id')}")


def _counts(samples: Sequence[Sample]) -> Table:
    """How often which is better, and which found the object."""
    gaps, found = [each.gap for each in samples], [[iou >= RIGHT for iou in each.ious] for each in samples]
    told = {
        f"A is better by more than {CLEAR:.1f} of IoU": sum(gap > CLEAR for gap in gaps),
        f"B is better by more than {CLEAR:.1f} of IoU": sum(gap < -CLEAR for gap in gaps),
        "they are nearly alike": sum(abs(gap) <= CLEAR for gap in gaps),
        f"both have an IoU of {RIGHT} or more": sum(a and b for a, b in found),
        "A alone has": sum(a and not b for a, b in found),
        "B alone has": sum(b and not a for a, b in found),
        "neither has": sum(not a and not b for a, b in found),
    }
    rows = [{"what": what, "n": count, "share": Figure(count / len(samples))} for what, count in told.items()]
    columns = (Column("what", "samples in which"), Column("n", "n", "count"), Column("share", "percent", "percent"))
    return Table("Sample by sample", columns, rows if samples else [])


def _drawn(samples: Sequence[Sample], pair: Pair) -> list[Sample]:
    """The same samples with their images, where they are at hand."""
    if pair.dataset is None or not samples:
        return list(samples)
    places = {str(pair.dataset.info(index).ref_id): index for index in range(len(pair.dataset))}
    first, second = ({_reference(row): row for row in side} for side in (pair.compared.first, pair.compared.second))
    drawn = []
    for each in samples:
        rows = first[each.reference], second[each.reference]
        example = pair.dataset[places[str(rows[0]["ref_id"])]]
        image = open_image(example.image)
        parts = {"image": image} | ({} if example.mask is None else {"truth": overlay(image, example.mask, TRUTH)})
        for letter, row in zip("AB", rows, strict=True):
            if row.get("mask"):
                parts[letter] = overlay(image, rle.decode(row["mask"]), ANSWER, row.get("box"))
        drawn.append(replace(each, images=[(name, _data_uri(image)) for name, image in parts.items()]))
    return drawn


def _data_uri(image: Image.Image) -> str:
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    image.save(buffer := io.BytesIO(), "WEBP", quality=75)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _chart(compared: Compared) -> str:
    """Each metric's difference with its interval around 0, as a data URI."""
    gaps = [(name, gap) for name, gap in _shown(compared).items() if gap.low == gap.low]
    with matplotlib.rc_context(STYLE):
        drawing = Drawing(figsize=(5.2, 0.6 + 0.26 * max(1, len(gaps))))
        axis = drawing.subplots()
        for place, (_, gap) in enumerate(reversed(gaps)):
            sure = gap.low > 0 or gap.high < 0
            axis.plot([100 * gap.low, 100 * gap.high], [place, place], color=COLOURS[0], linewidth=1.4)
            axis.plot(100 * gap.value, place, "o", markersize=4.5, color=COLOURS[0],
                      markerfacecolor=COLOURS[0] if sure else "white")  # fmt: skip
        axis.axvline(0, color="#444444", linewidth=0.8)
        axis.set_yticks(range(len(gaps)), [_title(name) for name, _ in reversed(gaps)], fontsize=8)
        axis.set_xlabel("A minus B, points (filled: the interval excludes 0)", fontsize=8)
        data = files_of(drawing, "chart")["chart.svg"]
    return "data:image/svg+xml;base64," + base64.b64encode(data).decode()


def pair_of(files: tuple[Path, Path], compared: Compared, place: Place = FOUND) -> Pair:
    """Two files and what was found; with the dataset's images if `place` says where they are."""
    row = compared.first[0]
    dataset = open_truth(str(row["dataset"]), str(row["split"]), place) if place.images else None
    told = [_file(path, files) for path in files]
    names = [f"{method} ({name})" if (method := _method(rows)) else name
             for name, rows in zip(told, (compared.first, compared.second), strict=True)]  # fmt: skip
    return Pair((names[0], names[1]), compared, dataset)


def _file(path: Path, files: Sequence[Path]) -> str:
    """A file's name; the folder of its run where the names are the same, and no more of a path than that."""
    return path.name if len({each.name for each in files}) > 1 else path.absolute().parent.parent.name


def _method(rows: Sequence[Mapping[str, Any]]) -> str:
    methods = sorted({str(row["method"]) for row in rows if row.get("method")})
    return method_name(methods[0]) if len(methods) == 1 else ""
