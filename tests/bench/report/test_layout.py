"""One table, five faces."""

import csv
import io

import pytest
from rich.console import Console

from bench.report.layout import Column, Figure, Table, Timing, html, markdown, print_table, to_csv

TABLE = Table(
    "Some_table",
    [
        Column("place", ""),
        Column("method", "method"),
        Column("ciou", "cIoU", "percent"),
        Column("ms", "ms", "time"),
        Column("n", "n", "count"),
    ],
    [
        {
            "place": "val",
            "method": "a & b",
            "ciou": Figure(0.61234567, 0.59, 0.64),
            "ms": Timing(12.345, 150.4),
            "n": 1234,
        },
        {"place": "val", "method": "c", "ciou": Figure(0.5, mark="†"), "ms": Timing(0.5)},
        {"place": "val", "method": "d"},
    ],
    ["100 % of it."],
)


def test_markdown_is_rounded():
    assert markdown(TABLE) == (
        "### Some_table\n\n"
        "| method | cIoU | ms | n |\n"
        "| --- | --: | --: | --: |\n"
        "| a & b | 61.2 ± 2.5 | 12.3 (150) | 1,234 |\n"
        "| c | 50.0† | 0.50 | – |\n"
        "| d | – | – | – |\n"
        "\n100 % of it.\n"
    )


def test_html_is_escaped_and_figures_are_marked_for_the_style():
    text = html(TABLE)
    assert "<h3>Some_table</h3>" in text and '<p class="note">100 % of it.</p>' in text
    assert '<th scope="col">method</th><th scope="col" class="figure">cIoU</th>' in text
    assert '<th scope="row">a &amp; b</th><td class="figure">61.2<span class="half"> ± 2.5</span></td>' in text
    assert "100 % of it." not in html(TABLE, said={"100 % of it."})
    assert text.count("<tr>") == text.count("</tr>") == 4


def test_csv_has_bounds_and_the_columns_without_title():
    rows = list(csv.DictReader(io.StringIO(to_csv(TABLE, TABLE))))
    assert len(rows) == 6
    assert rows[0] == {"place": "val", "method": "a & b", "ciou": "0.612346", "ciou_low": "0.590000",
                       "ciou_high": "0.640000", "ms": "12.345000", "ms_p90": "150.400000", "n": "1234"}  # fmt: skip
    assert (rows[1]["ciou_low"], rows[1]["ms_p90"], rows[1]["n"], rows[2]["ciou"]) == ("", "", "", "")


HOSTILE = [
    ("a|b", r"| a\|b |", "a|b"),
    ("<script>", "| &lt;script> |", "<script>"),
    ("[x](javascript:alert(1))", r"| \[x\](javascript:alert(1)) |", "[x](javascript:alert(1))"),
    ("two\nlines\r\u2028more", "| two lines more |", "two lines more"),
    ("`code`", r"| \`code\` |", "`code`"),
    ("=1+1", "| =1+1 |", "'=1+1"),
    ("@SUM(A1)", "| @SUM(A1) |", "'@SUM(A1)"),
    ("abc\u202edef\u200f", r"| abc\\u202edef\\u200f |", r"abc\u202edef\u200f"),
]


@pytest.mark.parametrize(("name", "row", "cell"), HOSTILE)
def test_names_are_text_in_markdown_and_spreadsheets(name, row, cell):
    table = Table("t", [Column("method", "method")], [{"method": name}])
    assert markdown(table).split("\n")[4] == row
    assert list(csv.reader(io.StringIO(to_csv(table)))) == [["method"], [cell]]


def test_a_narrow_terminal_gets_the_table_in_parts():
    wide, narrow = (Console(width=width, file=io.StringIO(), record=True) for width in (100, 32))
    print_table(TABLE, wide)
    print_table(TABLE, narrow)
    for console, headers in ((wide, 1), (narrow, 2)):
        text = console.export_text()
        assert text.count(" method") == headers
        assert all(len(line) <= console.width for line in text.splitlines())
        assert all(cell in text for cell in ("61.2 ± 2.5", "12.3 (150)", "1,234"))
