"""Tables in LaTeX: booktabs rules, and columns of figures that siunitx aligns at the decimal point.

A document that takes them in needs \\usepackage{booktabs} and \\usepackage{siunitx}. Whatever a name holds is text:
what LaTeX would read as a command is escaped, and a character that pdflatex has no letter for is told by its number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from bench.report.layout import MISSING, WORDS, Column, Table, marked, one_line

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "–": "--", "—": "---", "“": "``", "”": "''",
    "‘": "`", "’": "'", "…": r"\dots{}", "±": r"$\pm$", "×": r"$\times$", "²": r"$^2$", "−": "$-$",
    "†": r"$\dagger$", "‡": r"$\ddagger$", "<": "$<$", ">": "$>$", "≤": r"$\leq$", "≥": r"$\geq$", "→": r"$\to$",
    "[": "{[}", "]": "{]}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}", "'": "'",
}  # fmt: skip
LETTERS = re.compile(r"[A-Za-z0-9 .,;:!?()/*+=@'-]|[À-ÖØ-öø-ÿ]")  # that stand as they are
FIGURE = re.compile(r"(-?\d[\d,]*)(\.\d+)?(?: ± (\d+)(\.\d+)?)?([†‡]?)")  # what siunitx can align


def latex(*tables: Table) -> str:
    """One `table*` environment each."""
    return "\n".join(_latex(table) for table in tables)


def escape(text: str) -> str:
    """Text in one line that LaTeX prints as it is."""
    return "".join(_letter(each) for each in one_line(text))


def _letter(each: str) -> str:
    known = SPECIAL.get(each)
    if known is not None:
        return known
    return each if LETTERS.fullmatch(each) else f"(U+{ord(each):04X})"


def _latex(table: Table) -> str:
    rows, columns = marked(table), table.shown
    aligned = [column.kind not in WORDS and _is_aligned([row[i][0] for row in rows]) for i, column in
               enumerate(columns)]  # fmt: skip
    spec = " ".join(_spec(column, [row[i][0] for row in rows], figures) for i, (column, figures) in
                    enumerate(zip(columns, aligned, strict=True)))  # fmt: skip
    body = (" & ".join(map(_cell, row, aligned)) + r" \\" for row in rows)
    caption = escape(" ".join([table.title + ".", *table.notes]))
    return "\n".join([
        r"% needs \usepackage{booktabs} and \usepackage{siunitx}", r"\begin{table*}", r"\centering\footnotesize",
        r"\sisetup{detect-weight, separate-uncertainty, group-separator={,}, group-minimum-digits=4}",
        rf"\caption{{{caption}}}", rf"\begin{{tabular}}{{{spec}}}", r"\toprule", *_head(columns, aligned), r"\midrule",
        *body, r"\bottomrule", r"\end{tabular}", r"\end{table*}", "",
    ])  # fmt: skip


def _is_aligned(cells: Sequence[str]) -> bool:
    """Whether a column holds figures alone, and at least one."""
    found = [cell for cell in cells if cell != MISSING]
    return bool(found) and all(FIGURE.fullmatch(cell) for cell in found)


def _spec(column: Column, cells: Sequence[str], aligned: bool) -> str:
    """The column's kind: words left, other cells right, figures with room for the longest before and behind the point,
    and for half of the interval."""
    if not aligned:
        return "l" if column.kind in WORDS else "r"
    found = [match for cell in cells if (match := FIGURE.fullmatch(cell))]
    whole = max(len(match[1].replace(",", "")) for match in found)
    places = max(len(match[2] or ".") - 1 for match in found)
    half = max((len((match[3] + (match[4] or "").lstrip(".")).lstrip("0") or "0") for match in found if match[3]),
               default=0)  # fmt: skip
    return rf"S[table-format={whole}.{places}{f'({half})' if half else ''}]"


def _cell(cell: tuple[str, bool], aligned: bool) -> str:
    text, best = cell
    match = FIGURE.fullmatch(text) if aligned else None
    if match is None:
        shown = rf"\textbf{{{escape(text)}}}" if best else escape(text)
        return f"{{{shown}}}" if aligned else shown
    figure = match[1].replace(",", "") + (match[2] or "")
    half = f" +- {match[3]}{match[4] or ''}" if match[3] else ""
    mark = f" {{{escape(match[5])}}}" if match[5] else ""
    return (r"\bfseries " if best else "") + figure + half + mark


def _head(columns: Sequence[Column], aligned: Sequence[bool]) -> Iterator[str]:
    """The titles, below their groups where there are any."""
    groups = [(name, len(list(own))) for name, own in groupby(columns, key=lambda column: column.group)]
    if any(name for name, _ in groups):
        yield " & ".join(rf"\multicolumn{{{count}}}{{c}}{{{escape(name)}}}" for name, count in groups) + r" \\"
        ends = [sum(count for _, count in groups[: i + 1]) for i in range(len(groups))]
        yield "".join(rf"\cmidrule(lr){{{end - count + 1}-{end}}}" for (name, count), end in
                      zip(groups, ends, strict=True) if name)  # fmt: skip
    yield " & ".join(f"{{{escape(column.title)}}}" if figures else escape(column.title) for column, figures in
                     zip(columns, aligned, strict=True)) + r" \\"  # fmt: skip
