"""The validation page of a mask tokenizer: tables of its reconstructions, and its worst masks to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure as Drawing
from PIL import Image, ImageDraw, ImageFont

from bench.evaluate.mask_groups import SIZES
from bench.evaluate.shapes import KINDS
from bench.records import BREAKDOWN, RECONSTRUCTION, Record
from bench.report.figures.style import COLOURS, STYLE, files_of
from bench.report.latex import latex
from bench.report.layout import Column, Figure, Table, html, markdown, to_csv
from bench.report.page import document
from methods.base import Example

CELL = 160  # pixels a side of a mask on the sheet
LINE = 14
BOTH, MISSED, ADDED, NEITHER = (120, 120, 120), (213, 94, 0), (0, 114, 178), (245, 245, 245)  # Okabe and Ito's
INTERVALS = "Percent, ± half of the 95 % interval of a bootstrap over images; the CSV has both bounds."
GIOU, COUNT = Column("giou", "gIoU", "percent"), Column("n", "n", "count")


def tables(records: Sequence[Record]) -> dict[str, Table]:
    """File name -> table: by number of tokens, by group, of the shape test, and of the codebook; those without records
    are left out."""
    shapes = [record for record in records if record.dataset == "shapes"]
    others = [record for record in records if record.dataset != "shapes"]
    found = {
        "tokens": _by_tokens([r for r in others if r.kind == RECONSTRUCTION and r.metric in ("giou", "ciou")]),
        "groups": _by_group([r for r in others if r.kind == BREAKDOWN]),
        "shapes": _shapes(shapes),
        "codebook": _codebook([r for r in others if r.metric in ("codes_used", "perplexity")]),
    }
    return {name: table for name, table in found.items() if table.rows}


def _figure(record: Record) -> Figure:
    return Figure(record.value, record.low, record.high)


def _by_tokens(records: Sequence[Record]) -> Table:
    rows: dict[int, dict[str, object]] = {}
    for record in sorted(records, key=lambda record: record.tokens or 0):
        row = rows.setdefault(record.tokens or 0, {"tokens": record.tokens or "resize alone", "n": record.n})
        row[record.metric] = _figure(record)
    columns = (Column("tokens", "mask tokens"), GIOU, Column("ciou", "cIoU", "percent"), COUNT)
    note = "Resize alone: to the tokenizer's grid and back, without becoming tokens."
    return Table("Reconstruction by number of tokens", columns, list(rows.values()), [INTERVALS, note])


def _by_group(records: Sequence[Record]) -> Table:
    rank = {name: place for place, (_, name) in enumerate(SIZES)}
    records = sorted(records, key=lambda record: [rank.get(str(value), 9) for value in record.group.values()])
    rows = [{"by": name, "group": _said(str(value)), "giou": _figure(record), "n": record.n}
            for record in records for name, value in record.group.items()]  # fmt: skip
    columns = (Column("by", "by"), Column("group", "masks that are"), GIOU, COUNT)
    note = "Tall and wide: at least twice as long one way as the other."
    return Table("By size, aspect and place, all tokens", columns, rows, [note])


def _said(group: str) -> str:
    return f"{group} of the image" if "%" in group else group


def _shapes(records: Sequence[Record]) -> Table:
    order = {name: place for place, name in enumerate((*KINDS, "all", "resize"))}
    rows = [{"kind": record.split, "giou": _figure(record), "n": record.n}
            for record in sorted(records, key=lambda record: order[record.split])]  # fmt: skip
    note = "Drawn by a generator that no training set uses: tall and wide shapes at the borders, corners, rings, thin "
    note += "lines, tiny ones."
    return Table("Shape test, all tokens", (Column("kind", "kind"), GIOU, COUNT), rows, [note])


def _codebook(records: Sequence[Record]) -> Table:
    row = {record.metric: record.value if record.metric == "perplexity" else _figure(record) for record in records}
    columns = (Column("codes_used", "codes used", "percent"), Column("perplexity", "perplexity", "number"), COUNT)
    rows = [row | {"n": records[0].n}] if records else []
    return Table("Use of the codebook", columns, rows,
                 ["Perplexity: how many equally frequent codes would say as much."])  # fmt: skip


def worst_sheet(worst: Sequence[tuple[Example, np.ndarray, float]], columns: int = 6) -> Image.Image:
    """The masks with the lowest IoU: grey where truth and reconstruction agree, orange what is missed, blue what is
    added."""
    columns = max(1, min(columns, len(worst)))
    rows = -(-len(worst) // columns)
    page = Image.new("RGB", (columns * (CELL + 6), rows * (CELL + LINE + 6)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(11)
    for number, (example, again, iou) in enumerate(worst):
        left, top = (number % columns) * (CELL + 6) + 3, number // columns * (CELL + LINE + 6) + 3
        page.paste(_overlay(np.asarray(example.mask), again), (left, top + LINE))
        draw.text((left, top), f"IoU {iou:.3f}  {str(example.ref_id)[:18]}", (20, 20, 20), font)
    return page


def _overlay(truth: np.ndarray, again: np.ndarray) -> Image.Image:
    colours = np.array([NEITHER, MISSED, ADDED, BOTH], np.uint8)
    image = Image.fromarray(colours[truth + 2 * again])
    image.thumbnail((CELL, CELL), Image.Resampling.BILINEAR)
    return image


def curve(validation: Sequence[Mapping[str, float]]) -> Drawing:
    """gIoU on the validation split and in the shape test over the masks seen, from a training's validation.jsonl."""
    with matplotlib.rc_context(STYLE):
        drawing = Drawing(figsize=(5.2, 3.4))
        axes = drawing.subplots()
        seen = [row["samples"] for row in validation]
        for key, label, colour in (("giou", "validation split", COLOURS[0]), ("shapes/all", "shape test", COLOURS[1])):
            axes.plot(seen, [100 * row[key] for row in validation], color=colour, label=label)
        axes.set(xlabel="masks seen", ylabel="gIoU, percent", ylim=(0, 100))
        axes.legend(loc="lower right")
    return drawing


def write(
    folder: Path, title: str, records: Sequence[Record], worst: Sequence[tuple[Example, np.ndarray, float]],
    validation: Sequence[Mapping[str, float]] = (),
) -> None:  # fmt: skip
    """The page with its tables in three forms, the sheet, and the training's curve, in a folder of ours."""
    (folder / "tables").mkdir()
    found = tables(records)
    for name, table in found.items():
        for suffix, form in (("md", markdown), ("csv", to_csv), ("tex", latex)):
            (folder / "tables" / f"{name}.{suffix}").write_text(form(table), encoding="utf-8")
    parts = [html(*found.values())]
    if validation:
        for name, data in files_of(curve(validation), "curve").items():
            (folder / name).write_bytes(data)
        parts.append('<h3>Training</h3>\n<p><img src="curve.svg" alt="gIoU over the masks seen"></p>')
    if worst:
        worst_sheet(worst).save(folder / "worst.png")
        words = "The masks with the lowest IoU: orange is missed, blue is added, grey is both."
        parts.append(f'<h3>Worst masks</h3>\n<p><img src="worst.png" alt="{words}"></p>\n<p>{words}</p>')
    (folder / "index.html").write_text(document(title, "\n".join(parts)), encoding="utf-8")
