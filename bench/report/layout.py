"""A table as data, and its five faces: Markdown, HTML, CSV, LaTeX and the terminal.

Rounding and order are fixed, so the same records give the same bytes. All but the CSV show rounded
figures with half the width of the 95 % interval; the CSV holds the figures and both bounds to six places.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape as quote
from typing import Any, Literal, NamedTuple

import rich.box
import rich.table
from rich.console import Console

from bench.terminal import cell
from methods.files import printable

Kind = Literal["text", "count", "number", "percent", "time"]
MISSING = "–"
FORMULA = ("=", "+", "-", "@")  # what a spreadsheet computes a cell that begins with
LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "–": "--",
    "±": r"$\pm$", "†": r"$\dagger$", "‡": r"$\ddagger$", "<": "$<$", ">": "$>$", "≤": r"$\leq$", "≥": r"$\geq$",
})  # fmt: skip


class Figure(NamedTuple):
    """A fraction in 0..1 with its interval; `mark` is printed behind it (a footnote sign)."""

    value: float
    low: float | None = None
    high: float | None = None
    mark: str = ""


class Timing(NamedTuple):
    """Milliseconds: median and 90th percentile."""

    median: float
    p90: float | None = None


@dataclass(frozen=True)
class Column:
    """`key` finds the cell in a row and heads the CSV; `title` heads the other faces (none: not shown there)."""

    key: str
    title: str
    kind: Kind = "text"


@dataclass(frozen=True)
class Table:
    """Rows are dicts by column key; a missing key or None is a cell without a figure."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[dict[str, Any]]
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def shown(self) -> list[Column]:
        """The columns of all faces but the CSV."""
        return [column for column in self.columns if column.title]

    def cells(self) -> list[list[str]]:
        """What stands in the shown columns, row by row."""
        return [[_show(row.get(column.key), column.kind) for column in self.shown] for row in self.rows]


def markdown(*tables: Table) -> str:
    """Tables one below the other, each with its title and notes."""
    return "\n".join(_markdown(table) for table in tables)


def _markdown(table: Table) -> str:
    """Cells are not padded: a changed figure then changes one line of a shipped table."""
    lines = [[column.title for column in table.shown]]
    lines += [["---" if column.kind == "text" else "--:" for column in table.shown]]
    lines += table.cells()
    notes = "".join(f"\n{_markdown_text(note)}\n" for note in table.notes)
    rows = ("| " + " | ".join(map(_markdown_cell, line)) + " |\n" for line in lines)
    return f"### {_markdown_text(table.title)}\n\n" + "".join(rows) + notes


def _markdown_cell(text: str) -> str:
    return _markdown_text(text).replace("|", r"\|")


def _markdown_text(text: str) -> str:
    """One line that holds no tag, link or code, whatever a name holds."""
    return re.sub(r"[\\`<\[\]]", r"\\\g<0>", one_line(text)).replace(r"\<", "&lt;")


def html(*tables: Table) -> str:
    """Tables one below the other, each with its title and notes, for a page that has a style."""
    return "\n".join(_html(table) for table in tables)


def _html(table: Table) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        kinds = ("" if column.kind == "text" else ' class="figure"' for column in table.shown)
        return "".join(f"<{tag}{kind}>{quote(text)}</{tag}>" for text, kind in zip(cells, kinds, strict=True))

    head = line([column.title for column in table.shown], "th")
    body = "\n".join(f"<tr>{line(cells, 'td')}</tr>" for cells in table.cells())
    notes = "".join(f"\n<p>{quote(note)}</p>" for note in table.notes)
    return (
        f'<h3>{quote(table.title)}</h3>\n<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>{notes}"
    )


def to_csv(*tables: Table) -> str:
    """One CSV of tables with the same columns; a figure takes three columns, a timing two."""
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    columns = tables[0].columns
    writer.writerow([name for column in columns for name in _csv_names(column)])
    for table in tables:
        for row in table.rows:
            writer.writerow([value for column in columns for value in _csv_values(row.get(column.key), column)])
    return output.getvalue()


def latex(*tables: Table) -> str:
    """booktabs tables, one `table*` environment each."""
    return "\n".join(_latex(table) for table in tables)


def _latex(table: Table) -> str:
    spec = "".join("l" if column.kind == "text" else "r" for column in table.shown)
    lines = [[column.title for column in table.shown], *table.cells()]
    head, *body = [" & ".join(_escape(cell) for cell in line) + r" \\" for line in lines]
    caption = _escape(" ".join([table.title + ".", *table.notes]))
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table*}",
            r"\centering\footnotesize",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{{spec}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table*}",
            "",
        ]
    )


def print_table(table: Table, console: Console) -> None:
    """Print to the terminal, in several parts one below the other if it is too narrow for all columns."""
    rows = [[column.title for column in table.shown], *table.cells()]
    cells = [[printable(each) for each in row] for row in rows]
    widths = [max(len(line[i]) for line in cells[1:]) for i in range(len(table.shown))]
    widths = [max(width, *map(len, title.split())) for width, title in zip(widths, cells[0], strict=True)]
    console.print(f"\n[bold]{cell(table.title)}[/bold]")
    for part in _parts(table.shown, widths, console.width):
        face = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        for i in part:
            side = "left" if table.shown[i].kind == "text" else "right"
            face.add_column(cell(cells[0][i]), justify=side, width=widths[i])
        for line in cells[1:]:
            face.add_row(*(cell(line[i]) for i in part))
        console.print(face)
    for note in table.notes:
        console.print(cell(note), highlight=False)


def _parts(columns: Sequence[Column], widths: Sequence[int], limit: int) -> list[list[int]]:
    """Indices of the columns of each part: the text columns that lead the table, then as many others as fit."""
    lead = next((i for i, column in enumerate(columns) if column.kind != "text"), len(columns))
    lead = lead if sum(widths[:lead]) + 3 * lead <= limit / 2 else 1
    parts = [list(range(lead))]
    for i in range(lead, len(columns)):
        if sum(widths[j] + 3 for j in [*parts[-1], i]) > limit and len(parts[-1]) > lead:
            parts.append(list(range(lead)))
        parts[-1].append(i)
    return parts


def _show(value: Any, kind: Kind) -> str:
    if value is None or value == "":
        return MISSING
    if isinstance(value, Figure):
        half = "" if value.low is None or value.high is None else f" ± {50 * (value.high - value.low):.1f}"
        return f"{100 * value.value:.1f}{half}{value.mark}"
    if isinstance(value, Timing):
        return _milliseconds(value.median) + ("" if value.p90 is None else f" ({_milliseconds(value.p90)})")
    return {"count": "{:,.0f}", "number": "{:.1f}"}.get(kind, "{}").format(value)


def _milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _csv_names(column: Column) -> list[str]:
    extra = {"percent": ["low", "high"], "time": ["p90"]}.get(column.kind, [])
    return [column.key, *(f"{column.key}_{name}" for name in extra)]


def _csv_values(value: Any, column: Column) -> list[str]:
    numbers = {"percent": 3, "time": 2}.get(column.kind, 0)
    if not numbers:
        text = "" if value is None else one_line(str(value))
        return [f"'{text}" if column.kind == "text" and text[:1] in FORMULA else text]
    parts = list(value or ())[:numbers]
    return ["" if part is None else f"{part:.6f}" for part in parts] + [""] * (numbers - len(parts))


def one_line(text: str) -> str:
    """Text without line ends and other characters that are not printed; a space for each run of them."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+", " ", text)


def _escape(text: str) -> str:
    return one_line(text).translate(LATEX)
