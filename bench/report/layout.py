"""A table as data, and its faces: Markdown, HTML, CSV and the terminal (LaTeX: see latex.py).

Rounding and order are fixed, so the same records give the same bytes. All but the CSV show rounded
figures with half the width of the 95 % interval; the CSV holds the figures and both bounds to six places.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import groupby
from typing import Any, Literal, NamedTuple

import rich.box
import rich.table
from rich.console import Console

from bench.report.names import PROTOCOLS, method_name
from bench.terminal import cell
from methods.files import printable

Kind = Literal["text", "method", "protocol", "count", "number", "percent", "time"]
WORDS = ("text", "method", "protocol")  # kinds of cells that stand on the left
MISSING = "–"
TURNS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
FIGURE = re.compile(r"(-?[\d,]*\d)(\.\d+)?(.*)", re.S)
RATIO = re.compile(r"-?[\d.]+ \([^()]*\)")  # a figure with its interval, in a column of words
FORMULA = ("=", "+", "-", "@")  # what a spreadsheet computes a cell that begins with


class Figure(NamedTuple):
    """A fraction in 0..1 with its interval; `mark` is printed behind it (a footnote sign), the `best` one is bold."""

    value: float
    low: float | None = None
    high: float | None = None
    mark: str = ""
    best: bool = False


class Timing(NamedTuple):
    """Milliseconds: median and 90th percentile."""

    median: float
    p90: float | None = None


@dataclass(frozen=True)
class Column:
    """`key` finds the cell in a row and heads the CSV; `title` heads the other faces (none: not shown there), with a
    `group` that neighbouring columns share above it. Cells of the kinds "method" and "protocol" are as
    records have them, shown by name."""

    key: str
    title: str
    kind: Kind = "text"
    group: str = ""

    @property
    def head(self) -> str:
        """The title with its group, where there is one line for both."""
        return f"{self.group} {self.title}" if self.group else self.title


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
    lines = [[column.head for column in table.shown]]
    lines += [["---" if column.kind in WORDS else "--:" for column in table.shown]]
    lines += [[f"**{text}**" if best else text for text, best in row] for row in marked(table)]
    notes = "".join(f"\n{_markdown_text(note)}\n" for note in table.notes)
    rows = ("| " + " | ".join(map(_markdown_cell, line)) + " |\n" for line in lines)
    return f"### {_markdown_text(table.title)}\n\n" + "".join(rows) + notes


def marked(table: Table) -> list[list[tuple[str, bool]]]:
    """What stands in the shown columns, each with whether it is the best of its column."""
    best = [[getattr(row.get(column.key), "best", False) for column in table.shown] for row in table.rows]
    return [list(zip(cells, marks, strict=True)) for cells, marks in zip(table.cells(), best, strict=True)]


def _markdown_cell(text: str) -> str:
    return _markdown_text(text).replace("|", r"\|")


def _markdown_text(text: str) -> str:
    """One line that holds no tag, link or code, whatever a name holds."""
    return re.sub(r"[\\`<\[\]]", r"\\\g<0>", one_line(text)).replace(r"\<", "&lt;")


def html(*tables: Table, said: set[str] | None = None) -> str:
    """Tables one below the other, each with its title and those of its notes that are not in `said` yet, for a page
    that has a style."""
    return "\n".join(_html(table, set() if said is None else said) for table in tables)


def _html(table: Table, said: set[str]) -> str:
    notes = [note for note in table.notes if note not in said]
    said.update(notes)
    cells = table.cells()
    widths = [_width([line[place] for line in cells]) for place in range(len(table.shown))]
    body = "\n".join(f"<tr>{''.join(_html_cells(table, row, widths))}</tr>" for row in marked(table))
    return (
        f"<h3>{quote(table.title)}</h3>\n"
        f'<div class="wide" tabindex="0" role="region" aria-label="{quote(table.title)}"><table>\n'
        f"<thead>{_html_head(table.shown)}</thead>\n<tbody>\n{body}\n</tbody></table></div>"
        + "".join(f'\n<p class="note">{quote(note)}</p>' for note in notes)
    )


def _html_head(columns: Sequence[Column]) -> str:
    """The titles, below their groups where there are any."""
    kinds = ["" if column.kind in WORDS else ' class="figure"' for column in columns]
    titles = "".join(f'<th scope="col"{kind}>{quote(column.title)}</th>' for column, kind in
                     zip(columns, kinds, strict=True))  # fmt: skip
    if not any(column.group for column in columns):
        return f"<tr>{titles}</tr>"
    groups = [(name, len(list(own))) for name, own in groupby(columns, key=lambda column: column.group)]
    above = "".join(f'<th scope="colgroup" colspan="{count}" class="group">{quote(name)}</th>' if name
                    else f'<td colspan="{count}"></td>' for name, count in groups)  # fmt: skip
    return f"<tr>{above}</tr>\n<tr>{titles}</tr>"


def _html_cells(table: Table, row: Sequence[tuple[str, bool]], widths: Sequence[Width]) -> Iterator[str]:
    """The first cell heads its row; figures are aligned at their points."""
    for place, ((text, best), column) in enumerate(zip(row, table.shown, strict=True)):
        if column.kind not in WORDS:
            words = _aligned(text, widths[place])
            yield f'<td class="figure">{f"<b>{words}</b>" if best else words}</td>'
        elif place == 0:
            yield f'<th scope="row">{quote(text)}</th>'
        else:
            kind = ' class="ratio"' if RATIO.fullmatch(text) else ""
            yield f"<td{kind}>{quote(text)}</td>"


class Width(NamedTuple):
    """What stands behind the point in a column at most: digits, and what follows the figure."""

    digits: int
    rest: str


def _width(cells: Sequence[str]) -> Width:
    parts = [found for text in cells if (found := FIGURE.fullmatch(text))]
    rests = [found[3] for found in parts]
    return Width(max((len(found[2] or "") for found in parts), default=0), max(rests, key=len, default=""))


def _aligned(text: str, width: Width) -> str:
    """A figure with room, that is neither seen nor read out, for what others in its column have behind the point."""
    found = FIGURE.fullmatch(text)
    whole, point, rest = (found[1], found[2] or "", found[3]) if found else (text, "", "")
    room = "." * (not point and width.digits > 0) + "0" * (width.digits - max(1, len(point)) if width.digits else 0)
    behind = f'<span class="half">{quote(rest)}{_room(width.rest[len(rest) :])}</span>' if width.rest else ""
    return f"{quote(whole + point)}{_room(room)}{behind}"


def _room(text: str) -> str:
    return f'<span class="room" aria-hidden="true">{quote(text)}</span>' if text else ""


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


def print_table(table: Table, console: Console) -> None:
    """Print to the terminal, in several parts one below the other if it is too narrow for all columns."""
    rows = [[column.head for column in table.shown], *table.cells()]
    cells = [[printable(each) for each in row] for row in rows]
    widths = [max(len(line[i]) for line in cells[1:]) for i in range(len(table.shown))]
    widths = [max(width, *map(len, title.split())) for width, title in zip(widths, cells[0], strict=True)]
    console.print(f"\n[bold]{cell(table.title)}[/bold]")
    for part in _parts(table.shown, widths, console.width):
        face = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        for i in part:
            side = "left" if table.shown[i].kind in WORDS else "right"
            face.add_column(cell(cells[0][i]), justify=side, width=widths[i])
        for line in cells[1:]:
            face.add_row(*(cell(line[i]) for i in part))
        console.print(face)
    for note in table.notes:
        console.print(cell(note), highlight=False)


def _parts(columns: Sequence[Column], widths: Sequence[int], limit: int) -> list[list[int]]:
    """Indices of the columns of each part: the text columns that lead the table, then as many others as fit."""
    lead = next((i for i, column in enumerate(columns) if column.kind not in WORDS), len(columns))
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
    if kind == "method":
        return method_name(str(value))
    if kind == "protocol":
        return PROTOCOLS.get(str(value), str(value))
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
        return [f"'{text}" if column.kind in WORDS and text[:1] in FORMULA else text]
    parts = list(value or ())[:numbers]
    return ["" if part is None else f"{part:.6f}" for part in parts] + [""] * (numbers - len(parts))


def quote(text: str) -> str:
    """Text for HTML."""
    return escape(one_line(text))


def one_line(text: str) -> str:
    """Text without line ends and other characters that are not printed; a space for each run of them. Marks that turn
    the direction of what follows are shown as escapes."""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+", " ", text)
    return TURNS.sub(lambda mark: f"\\u{ord(mark[0]):04x}", text)
