"""One page of a profile's results, `index.html`: what the papers claim and what was measured, tables, figures, origin.

It needs no script and nothing from outside its folder. The same records give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from bench.records import Record
from bench.report import layout

# Section -> the names of its tables and figures; those that a profile lacks are left out.
SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Results": ("benchmarks", "main", "accuracy_latency"),
    "What the papers claim": ("findings", "claim"),
    "How many tokens": ("ablation_lengths", "ablation"),
    "What limits the scores": ("budget", "reconstruction_bound", "reconstruction", "breakdown", "perception"),
    "Understanding kept": ("understanding",),
    "Where the time goes": ("latency", "speedup", "orders", "roofline", "scaling", "int8"),
    "Training": ("training",),
    "Examples": ("examples", "own_words"),
}
FOLDED = ("ablation", "reconstruction", "breakdown", "roofline", "scaling")  # long tables, opened by a click
STYLE = """
:root { color-scheme: light dark; --line: #8884; --faint: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); } h3 { font-size: 1rem; }
nav a { margin-right: 1rem; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9em; }
th, td { padding: 0.2rem 0.7rem 0.2rem 0; text-align: left; border-bottom: 1px solid var(--faint); }
th { vertical-align: bottom; } .figure { text-align: right; } td.figure { white-space: nowrap; }
img { max-width: 100%; background: white; } summary { cursor: pointer; } .small { font-size: 0.85em; opacity: 0.8; }
"""


def write(folder: Path, title: str, tables: Mapping[str, Sequence[layout.Table]], records: Iterable[Record]) -> str:
    """The page as text. folder: results/<profile>, whose images in `figures` are shown.

    tables: the name of the files in `tables` -> what they hold.
    """
    sections = []
    for heading, names in SECTIONS.items():
        parts = [part for name in names for part in (_tables(name, tables), *_images(folder, name)) if part]
        if parts:
            anchor = heading.lower().replace(" ", "-")
            sections.append((anchor, heading, "\n".join(parts)))
    links = "".join(f'<a href="#{anchor}">{escape(heading)}</a>' for anchor, heading, _ in sections)
    study = '<a href="STUDY.md">The study</a>' if (folder / "STUDY.md").is_file() else ""
    body = "\n".join(f'<h2 id="{anchor}">{escape(heading)}</h2>\n{text}' for anchor, heading, text in sections)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>genseg-bench: {escape(title)}</title>\n<style>{STYLE}</style></head>\n<body>\n"
        f"<h1>genseg-bench: {escape(title)}</h1>\n<nav>{links}{study}</nav>\n{body}\n"
        f"{_origin(records)}\n</body></html>\n"
    )


def _tables(name: str, tables: Mapping[str, Sequence[layout.Table]]) -> str:
    if not tables.get(name):
        return ""
    files = ", ".join(f'<a href="tables/{name}.{kind}">{kind}</a>' for kind in ("md", "csv", "tex"))
    text = f'{layout.html(*tables[name])}\n<p class="small">{files}</p>'
    folded = name in FOLDED or (name == "main" and "benchmarks" in tables)  # a table for each dataset, split, protocol
    return f"<details><summary>{escape(name)}: the table</summary>\n{text}\n</details>" if folded else text


def _images(folder: Path, name: str) -> list[str]:
    """Drawings of that name, and photographs whose name begins with it."""
    paths = [folder / "figures" / f"{name}.svg", *sorted((folder / "figures").glob(f"{name}*.webp"))]
    return [
        f'<p><img src="figures/{path.name}" alt="{escape(path.stem)}" loading="lazy"></p>'
        for path in paths
        if path.is_file()
    ]


def _origin(records: Iterable[Record]) -> str:
    """Devices, precisions, weights, versions and dates behind the figures."""
    records = list(records)
    versions = {f"{name} {number}" for record in records for name, number in record.versions.items()}
    weights = {f"{r.method} {r.checkpoint}" for r in records if r.checkpoint and not r.variant}
    facts = {
        "devices": {record.device for record in records},
        "precision": {record.precision for record in records},
        "weights (digest)": weights,
        "versions": versions | {f"genseg-bench {record.revision}" for record in records if record.revision},
        "measured": {record.date for record in records},
    }
    lines = (f"{name}: {escape(', '.join(sorted(filter(None, values))))}" for name, values in facts.items() if values)
    return '<h2 id="origin">Origin</h2>\n<p class="small">' + "<br>\n".join(lines) + "</p>"
