"""LaTeX: what siunitx aligns, what is escaped, and that every shipped table compiles."""

import shutil
import subprocess
from pathlib import Path

import pytest

from bench.report.build import tables_of
from bench.report.latex import escape, latex
from bench.report.layout import Column, Figure, Table, Timing

RESULTS = Path(__file__).parents[3] / "results"
TABLE = Table(
    "Some_table",
    [
        Column("place", ""), Column("method", "method", "method"), Column("ciou", "cIoU", "percent", "val (300)"),
        Column("giou", "gIoU", "percent", "val (300)"), Column("ms", "ms", "time"), Column("n", "n", "count"),
    ],
    [
        {"place": "val", "method": "a & b", "ciou": Figure(0.612, 0.59, 0.64, "", True), "giou": Figure(0.5, mark="†"),
         "ms": Timing(12.3, 150.4), "n": 1234},
        {"place": "val", "method": "c", "ciou": Figure(0.0875)},
    ],
    ["100 % of it."],
)  # fmt: skip
HOSTILE = (
    r"\input{/etc/passwd}\end{document}", "$x^2_1$ & # % ~ {} []", "<script>alert('1')</script> \"`|",
    "a\u202eb\u200fc",
    "汉字 Ω é ß ñ 🙂", "two\nlines\u2028more", r"\\[1cm] -- ?` fi --- \verb|x|", "S column 1.2.3 +- ± 4",
)  # fmt: skip


def test_figures_are_aligned_and_names_escaped():
    lines = latex(TABLE).split("\n")
    assert r"\caption{Some\_table. 100 \% of it.}" in lines
    assert r"\begin{tabular}{l S[table-format=2.1(2)] S[table-format=2.1] r S[table-format=4.0]}" in lines
    assert r"\multicolumn{1}{c}{} & \multicolumn{2}{c}{val (300)} & \multicolumn{2}{c}{} \\" in lines
    assert r"\cmidrule(lr){2-3}" in lines
    assert r"method & {cIoU} & {gIoU} & ms & {n} \\" in lines
    assert r"a \& b & \bfseries 61.2 +- 2.5 & 50.0 {$\dagger$} & 12.3 (150) & 1234 \\" in lines
    assert r"c & 8.8 & {--} & -- & {--} \\" in lines


def test_names_are_text():
    shown = r"\textbackslash{}input\{x\} \$a\textasciicircum{}b\$ \textasciitilde{} \# \% \& \_"
    assert escape(r"\input{x} $a^b$ ~ # % & _") == shown
    assert escape("汉\n🙂") == "(U+6C49) (U+1F642)"
    assert escape("[x]") == "{[}x{]}"  # else an argument of the line's end before it


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A function that compiles tables -> the log."""
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is missing")
    folder = tmp_path_factory.mktemp("latex")

    def run(*tables):
        text = "\n\\clearpage\n".join(map(latex, tables))
        (folder / "all.tex").write_text(
            "\\documentclass[twocolumn]{article}\n\\usepackage[T1]{fontenc}\n\\usepackage{booktabs}\n"
            f"\\usepackage{{siunitx}}\n\\begin{{document}}\n{text}\n\\end{{document}}\n", encoding="utf-8"
        )  # fmt: skip
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=False)
        told = done.stdout.decode(errors="replace")
        if "siunitx.sty' not found" in told or "booktabs.sty' not found" in told:
            pytest.skip("LaTeX has no siunitx or booktabs")
        assert done.returncode == 0, told[-2000:]
        return told

    return run


@pytest.mark.slow
def test_hostile_names_compile(compiled):
    rows = [{"place": name, "method": name, "ciou": Figure(0.5, 0.4, 0.6), "ms": Timing(1)} for name in HOSTILE]
    columns = [Column("place", "place"), *TABLE.columns[1:], Column("other", HOSTILE[0])]
    for row, name in zip(rows, HOSTILE, strict=True):
        row["other"] = name
    compiled(TABLE, Table(" ".join(HOSTILE), columns, rows, HOSTILE))


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["nano", "mid", "full"])
def test_shipped_tables_compile(profile, compiled):
    tables = [table for own in tables_of(RESULTS / profile).values() for table in own]
    assert len(tables) > 3
    compiled(*tables)
